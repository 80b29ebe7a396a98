# From nothing but Python 3.11 and make: `make parity` proves, `make test` tests.
# Each environment is made once; changing pyproject.toml or constraints.txt brings it up to date.

PYTHON ?= python3
CONSTRAINTS := constraints.txt
VENV := .venv
BARE := .venv-without-torch
COMPILERS := .venv-accelerators
OLDEST := .venv-oldest

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help parity selftest test lint types pytest test-without-torch test-oldest deep \
	sanitize accelerators bench docs audit lock

help:
	@echo "make parity              prove that JAX and PyTorch agree, and write the report"
	@echo "make selftest            plant faults, and show that the proof finds each of them"
	@echo "make test                all three: lint, types, pytest"
	@echo "make lint                ruff: what it finds, and the format"
	@echo "make types               mypy --strict"
	@echo "make pytest              the tests, and how long the slowest ten took"
	@echo "make test-without-torch  test in an environment that has no torch"
	@echo "make test-oldest         test with the oldest JAX and Flax that are supported"
	@echo "make sanitize            run the C++ under the address and undefined-behaviour sanitizers"
	@echo "make accelerators        compile for TPU and GPU, which need not be there"
	@echo "make bench               time it beside its peers, 15 minutes (QUICK=1: under two)"
	@echo "make deep                random configurations against PyTorch, and laws (CASES=10000)"
	@echo "make fuzz                damaged checkpoints, read or refused (CASES=30000)"
	@echo "make endurance           killed and concurrent writers, and an hour's training steps (SHARE=1.0)"
	@echo "make docs                build the documentation into site/, strictly"
	@echo "make audit               look up known vulnerabilities of what is installed"
	@echo "make lock                pin what CI installs, with hashes"
	@echo "Each sets up what it needs. PYTHON=python3.12 picks the interpreter (3.11 or newer)."

parity: $(VENV)/.ready
	$(VENV)/bin/parity

selftest: $(VENV)/.ready
	$(VENV)/bin/parity selftest

bench: $(VENV)/.with-bench
	$(VENV)/bin/python -m benchmarks $(if $(QUICK),--quick)

test: lint types pytest

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/.ready
	$(VENV)/bin/mypy

pytest: $(VENV)/.ready
	$(VENV)/bin/python -m pytest -n 2 --durations=10

# The same tests are in `make pytest`, with a few cases each.
deep: $(VENV)/.ready
	DEEP_CASES=$(or $(CASES),10000) $(VENV)/bin/python -m pytest -n 2 --dist=load tests/deep

docs: $(VENV)/.with-docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

audit: $(VENV)/.ready
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet pip-audit
	.venv-audit/bin/pip-audit --skip-editable --path $$($(VENV)/bin/python -c \
	  'import sysconfig; print(sysconfig.get_path("purelib"))')

# All but torch, whose archives differ from index to index.
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet pip-tools
	.venv-lock/bin/pip-compile --quiet --upgrade --generate-hashes --strip-extras --no-header \
	  --no-annotate --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	  --unsafe-package torch --unsafe-package flax-bilstm --constraint constraints.txt \
	  --extra dev --output-file .github/locked.txt pyproject.toml

# The package is installed as users install it, so it is the wheel that is tested, not the checkout.
test-without-torch: $(BARE)/.ready
	$(BARE)/bin/pip install --quiet --no-deps .
	@$(BARE)/bin/python -c 'import importlib.util, sys; \
	  sys.exit("torch is installed in $(BARE): remove that folder" \
	           if importlib.util.find_spec("torch") else 0)'
	$(BARE)/bin/pytest -n 2 --durations=10

test-oldest: $(OLDEST)/.ready
	$(OLDEST)/bin/python -m pytest -n 2 --durations=10

# The sanitized library stands in for the other. Python itself leaks, and knows no sanitizer: its
# runtime is loaded first.
SANITIZED := build/sanitized
sanitize: $(VENV)/.ready
	cmake -S flax_bilstm/recurrence/native -B $(SANITIZED) -DFLAX_BILSTM_SANITIZE=ON \
	  -DPython_EXECUTABLE=$(CURDIR)/$(VENV)/bin/python
	cmake --build $(SANITIZED)
	FLAX_BILSTM_LIBRARY=$(CURDIR)/$(SANITIZED)/libflax_bilstm.so ASAN_OPTIONS=detect_leaks=0 \
	  LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	  $(VENV)/bin/pytest -n 0 tests/flax_bilstm/test_native_arithmetic.py \
	  tests/flax_bilstm/test_native_in_jax.py tests/flax_bilstm/test_native_library.py \
	  -k 'instruction_set or sigmoid or infinity or row or many or layouts or twice or where_a_compiler_is'

# The compilers have an environment of their own: with them installed, JAX looks for their hardware.
accelerators: $(COMPILERS)/.ready
	$(COMPILERS)/bin/python -m tools.accelerators

$(VENV)/.ready: INSTALL := --editable '.[dev]'
$(BARE)/.ready: INSTALL := '.[test]'
$(OLDEST)/.ready: INSTALL := --editable '.[parity,test]'
$(OLDEST)/.ready: CONSTRAINTS := constraints-oldest.txt
$(OLDEST)/.ready: constraints-oldest.txt
$(COMPILERS)/.ready: INSTALL := --requirement tools/accelerators/requirements.txt --editable .
$(COMPILERS)/.ready: tools/accelerators/requirements.txt
$(VENV)/.ready $(BARE)/.ready $(OLDEST)/.ready $(COMPILERS)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; $(PYTHON) is %d.%d. \
	Name another: make PYTHON=python3.11" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@echo "Setting up $(@D) with $(PYTHON): this takes minutes, and only the first time."
	@test -x $(@D)/bin/pip || $(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --constraint $(CONSTRAINTS) $(INSTALL)
	@touch $@

$(VENV)/.with-%: $(VENV)/.ready
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[$*]'
	@touch $@

.PHONY: fuzz endurance
# Damaged checkpoints; 500 of them are in `make test`.
fuzz: $(VENV)/.ready
	$(VENV)/bin/python -m tools.fuzzing $(CASES)

endurance: $(VENV)/.ready
	$(VENV)/bin/python -m tools.endurance $(SHARE)
