"""The plugin in runs of pytest of its own."""

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

HEAVY = ("jax", "flax", "torch", "optax", "flax_bilstm", "parity")
MODELS = """
    import numpy as np
    import torch

    import flax_bilstm as fb

    theirs = torch.nn.LSTM(2, 3, batch_first=True)
    state = theirs.state_dict()
    x = np.ones((2, 4, 2), np.float32)
"""


@pytest.fixture
def run(pytester):
    """Runs a test file in a process of its own, as a user's project would."""

    def run(source, *options):
        pytester.makepyfile(source)
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *options)

    return run


def test_it_is_found_and_loads_nothing_until_it_is_used(run):
    done = run(
        f"""
        import sys

        def test_quick(pytestconfig):
            assert pytestconfig.pluginmanager.hasplugin("parity")
            assert [name for name in {HEAVY} if name in sys.modules] == []
        """
    )
    done.assert_outcomes(passed=1)


def test_what_others_load_imports_nothing_heavy(tmp_path):
    script = (
        "import sys, parity_entry.command, parity_entry.pytest_plugin\n"
        f"sys.exit(any(name in sys.modules for name in {HEAVY}))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)


def test_a_right_port_passes_and_a_wrong_one_shows_the_report(run):
    pytest.importorskip("torch")
    done = run(
        MODELS
        + """
    def test_right(assert_parity):
        report = assert_parity(theirs, fb.from_state_dict(state), x)
        assert {row.dtype for row in report.rows} == {"", "float64", "float32"}

    def test_wrong(assert_parity):
        swapped = {**state, "weight_hh_l0": state["weight_hh_l0"].roll(3, 0)}
        assert_parity(theirs, fb.from_state_dict(swapped), x, dtypes=["float64"])
    """
    )
    done.assert_outcomes(passed=1, failed=1)
    done.stdout.fnmatch_lines(
        [
            "*test_wrong*",
            "FAILED: * comparisons; first weight_hh_l0 (parameters): *",
            "what * check * dtype *",
            "*forward*float64*FAILED",
            "versions: python *",
        ]
    )
    done.stdout.no_fnmatch_line("*pytest_plugin.py*")  # no traceback of the plugin's own
