"""Every contestant computes the same, and so may be timed beside the others."""

import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks.cells import AGREEMENT, Cell
from benchmarks.contestants import ALTERNATIVES, CONTESTANTS, OURS, PEERS, TRUTH, entrants
from benchmarks.workload import difference, inputs, weights

TINY = [
    Cell("layer", "inference", 4, 2, 3),
    Cell("layer", "inference", 4, 2, 3, directions=1, ragged=True),
    Cell("layer", "inference", 4, 2, 3, layers=2),
    Cell("layer", "gradients", 4, 3, 5, layers=2, ragged=True),
    Cell("layer", "gradients", 4, 2, 3, directions=1),
    Cell("network", "inference", 4, 2, 3),
]
NEEDS = {"ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}
SLOW = {"PyTorch compiled"}
"""Left to the benchmark itself: it takes a C++ compiler and half a minute."""
CASES = [
    pytest.param(name, cell, id=f"{name}: {cell}")
    for cell in TINY
    for name in [*entrants(cell), "fused, directions over 2 devices"]
    if name not in SLOW
]


def prepared(name, cell):
    contestant = CONTESTANTS[name]
    return contestant.load().build(cell, **contestant.options)


@pytest.mark.usefixtures("quickly_compiled", "standard_promotion")  # promotion as users have it
@pytest.mark.parametrize(("name", "cell"), CASES)
def test_all_give_the_numbers_of_pytorch_in_float64(name, cell):
    pytest.importorskip(NEEDS.get(name, "torch"))
    truth, candidate = prepared("truth", cell), prepared(name, cell)
    expected, arrays = truth.arrays(truth.run()), candidate.arrays(candidate.run())
    assert difference(arrays, expected) < 1e-5
    assert not {n for n in expected.keys() - arrays.keys() if not n.startswith("bias_hh")}


@pytest.mark.usefixtures("quickly_compiled", "standard_promotion")
def test_training_steps_go_on_as_pytorchs_in_float64():
    """The second loss shows what the first step's update did."""
    cell = Cell("network", "training", 4, 2, 3)
    truth = prepared("truth", cell)
    expected = [truth.run().item() for _ in range(2)]
    assert expected[0] != expected[1]
    for name in entrants(cell):
        candidate = prepared(name, cell)
        # Flax's cell has one bias, which Adam moves half as far as it moves two.
        runs = 1 if name == "flax.nnx" else 2
        losses = [candidate.arrays(candidate.run())["output"].item() for _ in range(runs)]
        np.testing.assert_allclose(losses, expected[:runs], rtol=1e-5, err_msg=name)


def test_the_kernels_are_those_that_ran():
    cell = Cell("layer", "inference", 16, 4, 5)
    assert prepared("PyTorch", cell).kernel().startswith("oneDNN rnn ")
    assert prepared("truth", cell).kernel() == "ATen, without oneDNN"  # has no float64
    assert "2 XLA loops" in prepared("scan", cell).kernel()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1 + 2 * AGREEMENT])
def test_numbers_that_differ_are_not_let_in(wrong):
    expected = {"outputs": np.array([1.0, 0.5])}
    assert difference({"outputs": np.array([1.0, 0.5])}, expected) <= AGREEMENT
    assert not difference({"outputs": np.array([wrong, 0.5])}, expected) <= AGREEMENT


def test_a_wrong_array_is_not_hidden_by_a_right_one_after_it():
    expected = {"outputs": np.ones(2), "h_n": np.ones(2)}
    assert np.isnan(difference({"outputs": np.full(2, np.nan), "h_n": np.ones(2)}, expected))
    assert difference({"outputs": np.full(2, 3.0), "h_n": np.ones(2)}, expected) == 2


def test_arrays_under_other_names_or_shapes_are_refused():
    with pytest.raises(ValueError, match="expected arrays out of"):
        difference({"y": np.ones(2)}, {"outputs": np.ones(2)})
    with pytest.raises(ValueError, match="expected shape"):
        difference({"outputs": np.ones((1, 2))}, {"outputs": np.ones(2)})


def test_who_enters():
    whole = Cell("layer", "inference", 64, 32, 128)
    assert entrants(whole) == [OURS, *PEERS, *ALTERNATIVES]
    assert "PyTorch compiled" not in entrants(whole._replace(ragged=True))
    assert entrants(Cell("network", "training", 64, 1, 32)) == [OURS, "PyTorch", "flax.nnx"]


def test_the_truth_is_in_float64():
    assert TRUTH.options == {"dtype": "float64"}


def test_ragged_inputs_are_zero_in_the_padding():
    cell = Cell("layer", "gradients", 4, 8, 12, ragged=True)
    made = inputs(cell)
    assert sorted(made.lengths) == cell.lengths
    assert (cell.lengths[0], cell.lengths[-1]) == (4, 12)
    for x, gradient, length in zip(made.x, made.outputs_gradient, made.lengths, strict=True):
        assert x[:length].all()
        assert not x[length:].any()
        assert gradient[:length].all()
        assert not gradient[length:].any()


@pytest.mark.parametrize(
    ("cell", "products"),
    [
        (Cell("layer", "inference", 64, 1, 1), 2 * (128 + 64)),
        (Cell("layer", "inference", 64, 1, 1, directions=1), 128 + 64),
        (Cell("layer", "inference", 64, 1, 1, layers=2), 2 * (128 + 64) + 2 * (128 + 64)),
        (Cell("network", "training", 64, 1, 1), 2 * (2 * 128 + 3 * 64)),
        (Cell("layer", "gradients", 64, 1, 1), 2 * (3 * 128 + 3 * 64)),
        (Cell("layer", "gradients", 64, 1, 1, layers=2), 2 * (3 * 128 + 3 * 64) * 2),
    ],
    ids=str,
)
def test_the_floor_counts_the_products(cell, products):
    assert cell.matmul_flops == 2 * products * 4 * 64


def test_weights_are_a_state_dict_of_the_reference():
    torch_ref = pytest.importorskip("torch_ref")
    model = torch_ref.BiLSTMWithAttention(128, 4, 1)
    made = weights(Cell("network", "inference", 4, 1, 1))
    assert {n: tuple(t.shape) for n, t in model.state_dict().items()} == {
        n: array.shape for n, array in made.items()
    }
