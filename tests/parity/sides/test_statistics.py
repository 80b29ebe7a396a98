"""Running statistics that are still 0 and 1 hide how evaluation mode uses them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx

import parity

X = np.random.default_rng(0).standard_normal((6, 4), dtype=np.float32)
USES = {
    "right": lambda x, mean, var: (x - mean) * jax.lax.rsqrt(var + 1e-5),
    "mean added": lambda x, mean, var: (x + mean) * jax.lax.rsqrt(var + 1e-5),
    "mean left out": lambda x, mean, var: x * jax.lax.rsqrt(var + 1e-5),
    "variance left out": lambda x, mean, var: (x - mean) / jnp.sqrt(jnp.ones_like(var) + 1e-5),
}


class Norm(nnx.Module):
    """BatchNorm in evaluation mode, which uses its statistics in one of several ways."""

    def __init__(self, use):
        self.weight, self.bias = nnx.Param(jnp.ones(4)), nnx.Param(jnp.zeros(4))
        self.running_mean = nnx.BatchStat(jnp.zeros(4))
        self.running_var = nnx.BatchStat(jnp.ones(4))
        self.use = use

    def __call__(self, x):
        held = (self.running_mean[...][None], self.running_var[...][None])
        return self.use(x, *held) * self.weight[...][None] + self.bias[...][None]


def check(use, reference, ignore=("num_batches_tracked",)):
    return parity.check(
        reference, Norm(USES[use]), X, ignore=ignore, training_steps=0, dtypes=["float32"]
    )


@pytest.mark.parametrize("use", USES)
def test_fresh_statistics_are_moved_for_one_more_forward_pass(quickly_compiled, use):
    report = check(use, torch.nn.BatchNorm1d(4))
    failing = {(row.check, row.name, row.explains) for row in report.rows if row.failed}
    wrong = {("forward", "output", True), ("statistics", "output", False)}
    assert failing == (set() if use == "right" else wrong)


def test_statistics_that_were_updated_are_not_moved(quickly_compiled):
    reference = torch.nn.BatchNorm1d(4, affine=False)
    for step in range(3):
        reference(torch.from_numpy(X + step))
    ours = Norm(USES["right"])
    for name in ("running_mean", "running_var"):
        getattr(ours, name)[...] = jnp.asarray(getattr(reference, name).numpy())
    del ours.weight, ours.bias
    ours.weight, ours.bias = jnp.ones(4), jnp.zeros(4)
    report = parity.check(
        reference, ours, X, ignore=["num_batches_tracked"], training_steps=0, dtypes=["float32"]
    )
    report.assert_passed()
    assert "statistics" not in {row.check for row in report.rows}
