# From nothing but Python 3.11 and make: `make parity` proves, `make test` tests.
# Each environment is made once; changing pyproject.toml or constraints.txt brings it up to date.

PYTHON ?= python3
VENV := .venv
BARE := .venv-without-torch
COMPILERS := .venv-accelerators

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help parity selftest test test-without-torch accelerators bench deep docs

help:
	@echo "make parity              prove that JAX and PyTorch agree, and write the report"
	@echo "make selftest            plant faults, and show that the proof finds each of them"
	@echo "make test                lint, type-check and test"
	@echo "make test-without-torch  test in an environment that has no torch"
	@echo "make accelerators        compile for TPU and GPU, which need not be there"
	@echo "make bench               time it beside PyTorch and flax.nnx (QUICK=1: under two minutes)"
	@echo "make deep                random configurations against PyTorch, and laws (CASES=2000 each)"
	@echo "make docs                build the documentation into site/, strictly"
	@echo "Each sets up what it needs. PYTHON=python3.12 picks the interpreter (3.11 or newer)."

parity: $(VENV)/.ready
	$(VENV)/bin/parity

selftest: $(VENV)/.ready
	$(VENV)/bin/parity selftest

bench: $(VENV)/.ready
	$(VENV)/bin/python -m benchmarks $(if $(QUICK),--quick --rounds 3)

test: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/pytest -n 2

# The same tests are in `make test`, with a few cases each.
deep: $(VENV)/.ready
	DEEP_CASES=$(or $(CASES),2000) $(VENV)/bin/pytest -n 2 --dist=load tests/deep

docs: $(VENV)/.ready
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

# The package is installed as users install it, so it is the wheel that is tested, not the checkout.
test-without-torch: $(BARE)/.ready
	$(BARE)/bin/pip install --quiet --no-deps .
	@$(BARE)/bin/python -c 'import importlib.util, sys; \
	  sys.exit("torch is installed in $(BARE): remove that folder" \
	           if importlib.util.find_spec("torch") else 0)'
	$(BARE)/bin/pytest -n 2

# The compilers have an environment of their own: with them installed, JAX looks for their hardware.
accelerators: $(COMPILERS)/.ready
	$(COMPILERS)/bin/python -m accelerators

$(VENV)/.ready: INSTALL := --editable '.[dev]'
$(BARE)/.ready: INSTALL := '.[test]'
$(COMPILERS)/.ready: INSTALL := --requirement accelerators/requirements.txt --editable .
$(COMPILERS)/.ready: accelerators/requirements.txt
$(VENV)/.ready $(BARE)/.ready $(COMPILERS)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; $(PYTHON) is %d.%d. \
	Name another: make PYTHON=python3.11" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@echo "Setting up $(@D) with $(PYTHON): this takes minutes, and only the first time."
	@test -x $(@D)/bin/pip || $(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --constraint constraints.txt $(INSTALL)
	@touch $@
