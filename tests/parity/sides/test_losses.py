import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import parity
from parity.sides.losses import CROSS_ENTROPY, MEAN_SQUARED_ERROR

from ..two_layers import Port, Reference, check, plain

RNG = np.random.default_rng(0)
OUTPUT, IMAGES = RNG.standard_normal((4, 3)), RNG.standard_normal((2, 3, 5))
SHARES = np.abs(RNG.standard_normal((4, 3)))
CLASSES = RNG.integers(0, 3, (2, 5))
TARGETS = [
    (MEAN_SQUARED_ERROR, OUTPUT, RNG.standard_normal((4, 3))),
    (CROSS_ENTROPY, OUTPUT, np.array([2, 0, 1, 1])),
    (CROSS_ENTROPY, OUTPUT, np.array([2, 0, 1, 1], np.int32)),
    (CROSS_ENTROPY, OUTPUT, np.array([2, -100, 1, -100])),
    (CROSS_ENTROPY, OUTPUT, SHARES / SHARES.sum(1, keepdims=True)),
    (CROSS_ENTROPY, OUTPUT[0], np.array(2)),
    (CROSS_ENTROPY, IMAGES, CLASSES),
    (CROSS_ENTROPY, IMAGES, np.abs(IMAGES)),
]


@pytest.mark.parametrize(("loss", "output", "target"), TARGETS)
def test_the_twins_agree(x64, loss, output, target):
    theirs = loss.torch(torch.from_numpy(output), {"target": torch.from_numpy(target)}).item()
    ours = float(loss.jax(jnp.asarray(output), {"target": jnp.asarray(target)}))
    assert abs(ours - theirs) < 1e-14


def test_a_tagger_has_its_classes_on_the_last_axis(x64):
    logits, target = np.moveaxis(IMAGES, 1, -1), torch.from_numpy(CLASSES)
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(IMAGES), target).item()
    theirs = CROSS_ENTROPY.torch(torch.from_numpy(logits.copy()), {"target": target}).item()
    ours = float(CROSS_ENTROPY.jax(jnp.asarray(logits), {"target": jnp.asarray(CLASSES)}))
    assert theirs == expected
    assert abs(ours - expected) < 1e-14


def test_a_target_of_another_shape_is_an_error_of_the_targets():
    with pytest.raises(ValueError, match=r"targets: expected 'target' .* \(4, 3\), got \(4, 1\)"):
        MEAN_SQUARED_ERROR.torch(torch.from_numpy(OUTPUT), {"target": torch.zeros(4, 1)})


def test_an_output_without_floating_numbers_is_an_error_that_says_so():
    with pytest.raises(ValueError, match=r"no floating numbers, only \['bool'\]"):
        MEAN_SQUARED_ERROR.jax(jnp.asarray(OUTPUT) > 0, {"target": jnp.asarray(OUTPUT)})


def test_whole_numbers_as_targets_of_a_mean_squared_error(quickly_compiled):
    targets = {"target": np.arange(12).reshape(6, 2)}
    check(Reference(plain), Port(plain), targets=targets).assert_passed()


def test_a_loss_that_is_no_scalar_in_jax_is_told(quickly_compiled):
    loss = parity.Loss("wrong", lambda y, i: (y**2).mean(), lambda y, i: (y**2).mean(0))
    report = check(Reference(plain), Port(plain), loss=loss)
    assert "loss: expected a floating scalar in JAX, got float64[2]" in str(report)
