import json

import jax
import jax.numpy as jnp
import pytest

torch = pytest.importorskip("torch")

from parity.environment import describe_environment, pinned_precision


def test_everything_is_said_and_fits_json():
    facts = json.loads(json.dumps(describe_environment(["float64"])))
    assert facts["matmul_precision"] == "highest"
    assert facts["versions"]["jax"] == jax.__version__
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["platform"]["jax_backend"] == "cpu"


def test_precision_is_pinned_inside_and_restored_after():
    torch.set_float32_matmul_precision("medium")
    try:
        with jax.default_matmul_precision("default"):
            with pinned_precision():
                assert torch.get_float32_matmul_precision() == "highest"
                text = str(jax.make_jaxpr(jnp.dot)(jnp.ones((2, 2)), jnp.ones((2, 2))))
                assert "HIGHEST" in text
            text = str(jax.make_jaxpr(jnp.dot)(jnp.ones((2, 2)), jnp.ones((2, 2))))
            assert "HIGHEST" not in text
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_torch_has_one_thread_inside_and_its_own_number_after():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pinned_precision():
            assert torch.get_num_threads() == 1
            assert describe_environment(["float64"])["platform"]["torch_threads"] == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
