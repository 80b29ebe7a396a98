import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from parity.sides.losses import CROSS_ENTROPY, MEAN_SQUARED_ERROR

OUTPUT = np.random.default_rng(0).standard_normal((4, 3))
TARGETS = [
    (MEAN_SQUARED_ERROR, np.random.default_rng(1).standard_normal((4, 3))),
    (CROSS_ENTROPY, np.array([2, 0, 1, 1])),
]


@pytest.mark.parametrize(("loss", "target"), TARGETS, ids=lambda value: getattr(value, "name", ""))
def test_the_twins_agree(x64, loss, target):
    theirs = loss.torch(torch.from_numpy(OUTPUT), {"target": torch.from_numpy(target)}).item()
    ours = float(loss.jax(jnp.asarray(OUTPUT), {"target": jnp.asarray(target)}))
    assert abs(ours - theirs) < 1e-14
