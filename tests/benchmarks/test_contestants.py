"""Every contestant computes the same, and so may be timed beside the others."""

import numpy as np
import pytest

from benchmarks.cells import CONTESTANTS, MODES, OURS, Cell, enters
from benchmarks.contestants import BUILDERS

pytest.importorskip("torch")


@pytest.mark.usefixtures("standard_promotion")  # as users have it
@pytest.mark.parametrize("mode", MODES)
def test_all_agree_with_pytorch_in_float64(mode):
    """Two runs of each: a training step's second loss shows what its update did."""
    cell = Cell(batch=2, time=3, hidden_dim=4, mode=mode)
    truth = BUILDERS["torch"](cell, CONTESTANTS["PyTorch"], dtype="float64")
    expected = [np.asarray(truth()), np.asarray(truth())]
    assert (mode == "training") == (expected[0] != expected[1]).any()
    for name, contestant in CONTESTANTS.items():
        run = BUILDERS[contestant.framework](cell, contestant)
        # Flax's cell has one bias, which Adam moves half as far as it moves two.
        runs = 1 if name == "flax.nnx" else 2
        actual = [run() for _ in range(runs)]
        np.testing.assert_allclose(actual, expected[:runs], rtol=1e-5, err_msg=name)


def test_a_batch_that_does_not_divide_is_not_entered():
    one, eight = (Cell(batch, 3, 4, "inference") for batch in (1, 8))
    assert all(enters(contestant, eight) for contestant in CONTESTANTS.values())
    split = {"fused, batch on 2", "fused, both on 4"}
    assert {name for name in OURS if not enters(OURS[name], one)} == split


def test_the_floor_counts_the_products_of_both_directions():
    cell = Cell(batch=1, time=1, hidden_dim=64, mode="inference")
    assert cell.matmul_flops == 2 * (2 * (128 + 64) * 256)
    assert cell._replace(mode="training").matmul_flops == 2 * (2 * (2 * 128 + 3 * 64) * 256)
