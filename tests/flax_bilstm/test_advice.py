"""What an error says of a state dict that does not fit: the likely `names=`, and notes."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb

RNGS = nnx.Rngs(0)
WEIGHT = np.arange(20, dtype=np.float32).reshape(5, 4)


class Box(nnx.Module):
    def __init__(self, **inside):
        for name, value in inside.items():
            setattr(self, name, value)


@nnx.split_rngs(splits=3)
@nnx.vmap
def stack(rngs):
    return nnx.Linear(4, 5, use_bias=False, rngs=rngs)


EMBED = nnx.Embed(5, 4, rngs=RNGS)
CASES = {
    "everything lies in one module": (
        Box(a=EMBED),
        {"model.a.weight": WEIGHT},
        'names={"": "model"}',
    ),
    "a tie": (
        Box(encoder=EMBED),
        {"encoder.weight": WEIGHT, "decoder.weight": WEIGHT.copy()},
        'names={"encoder.embedding": ("encoder.weight", "decoder.weight")}',
    ),
    "a module that Flax has twice": (
        Box(a=EMBED, b=EMBED),
        {"a.weight": WEIGHT},
        'names={"b": "a"}',
    ),
    "a single tensor": (
        Box(embed=EMBED, transitions=nnx.Param(jnp.zeros((2, 2)))),
        {"embed.weight": WEIGHT, "trans": WEIGHT[:2, :2]},
        'names={"transitions": "trans"}',
    ),
    "the index of a stack at another place": (
        Box(a=EMBED, encoder=Box(layers=stack(nnx.Rngs(0)))),
        {"a.weight": WEIGHT, **{f"encoder.layers.{i}.weight": WEIGHT for i in range(3)}},
        'names={"encoder.layers": "encoder.layers.*"}',
    ),
    "a cell with one bias": (
        Box(a=EMBED, cell=nnx.OptimizedLSTMCell(3, 4, rngs=RNGS)),
        {"a.weight": WEIGHT},
        "note: cell is an nnx.OptimizedLSTMCell; it has one bias",
    ),
    "a plain array": (
        Box(a=EMBED, pe=jnp.zeros(3)),
        {"a.weight": WEIGHT, "pe": np.zeros(3, np.float32)},
        'note: pe is a plain array; make it an nnx.Variable, or ignore=("pe",)',
    ),
    "a parametrized weight": (
        Box(a=EMBED),
        {"a.parametrizations.weight.original1": WEIGHT},
        "note: a.parametrizations.weight.original1 is part of a weight",
    ),
}


@pytest.mark.parametrize(("module", "state_dict", "said"), CASES.values(), ids=CASES)
def test_the_error_says_what_to_do(module, state_dict, said):
    before = fb.state_dict(module)
    with pytest.raises(ValueError, match="nothing was loaded") as error:
        fb.load_state_dict(module, state_dict)
    assert said in str(error.value)
    for name, array in fb.state_dict(module).items():
        np.testing.assert_array_equal(array, before[name], strict=True)


def test_whole_numbers_are_torchs_of_64_bits():
    module = Box(ids=nnx.Variable(jnp.zeros(3, jnp.int32)))
    fb.load_state_dict(module, {"ids": np.array([1, 2, 3], np.int64)})
    back = fb.state_dict(module)["ids"]
    np.testing.assert_array_equal(back, np.array([1, 2, 3], np.int64), strict=True)
    with pytest.raises(ValueError, match="not exact: ids"):
        fb.load_state_dict(module, {"ids": np.array([1, 2, 2**40], np.int64)})


def test_a_part_of_the_network_is_renamed():
    network = fb.BiLSTMWithAttention(3, 4, 1, rngs=RNGS)
    assert "encoder.weight_ih_l0" in fb.state_dict(network, names={"lstm": "encoder"})
