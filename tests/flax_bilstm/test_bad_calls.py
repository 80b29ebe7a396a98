"""Bad calls of every public function: each ends in one sentence that names the argument."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm import sharding
from flax_bilstm.conversion import SAME

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.usefixtures("unchecked")


def deleted():
    """An array whose memory was donated."""
    array = jnp.ones((3, 5, 2))
    array.delete()
    return array


ODD = {
    "text": "x", "object": object(), "huge": 2**63, "complex": 1j, "dict": {1: 2},
    "list": [[1, [2]]],
    "array": np.ones((3, 5, 7), "f4"), "meta": torch.ones(3, 5, 2, device="meta"),
    "deleted": deleted(), "key": jax.random.key(0), "class": nnx.Linear,
    "shape": jax.ShapeDtypeStruct((3, 5, 2), jnp.float32), "nan": math.nan, "bytes": b"x",
    "strings": np.array(["a"]),
}  # fmt: skip
"""Values that fit no argument; `pytest.raises` below sees which of them does."""

LSTM, NET = fb.LSTM(2, 3, rngs=nnx.Rngs(0)), fb.BiLSTMWithAttention(2, 3, 1, rngs=nnx.Rngs(0))
ATTENTION, CELL = fb.Attention(2, rngs=nnx.Rngs(0)), fb.LSTMCell(2, 3, rngs=nnx.Rngs(0))
SEQUENCE, CARRY = np.ones((3, 5, 2), "f4"), (np.ones((3, 3), "f4"), np.ones((3, 3), "f4"))
SIZES = {"num_layers": 1, "dropout": 0.0, "bidirectional": False, "time_major": False}
OPTIONS = {"dtype": None, "param_dtype": jnp.float32, "rngs": nnx.Rngs(0)}
CELLS = {"input_size": 2, "hidden_size": 3, "bias": True, "proj_size": 0, **OPTIONS}
OPTIMIZER = torch.optim.Adam(torch.nn.LSTM(2, 3).parameters()).state_dict()
GOLDEN = Path(__file__).parents[1] / "golden" / "lstm.safetensors"
LINEN, MESH = fb.linen.LSTM(2, 3), sharding.make_mesh()


class Own(nnx.Module):
    """A layer that no table has."""


def export(model, inputs, lengths, mask):
    """`fb.export` with one input, or none."""
    return fb.export(model, *([] if inputs is None else [inputs]), lengths=lengths, mask=mask)


DOORS = {
    "LSTM": (fb.LSTM, {**CELLS, **SIZES}),
    "LSTMCell": (fb.LSTMCell, CELLS),
    "Attention": (fb.Attention, {"hidden_dim": 2, "score": "dot", **OPTIONS}),
    "network": (
        fb.BiLSTMWithAttention, {"input_dim": 2, "hidden_dim": 3, "output_dim": 1, **OPTIONS}
    ),
    "LSTM()": (LSTM, {"x": SEQUENCE, "initial_state": None, "lengths": None, "mask": None}),
    "LSTMCell()": (CELL, {"carry": CARRY, "inputs": np.ones((3, 2), "f4")}),
    "Attention()": (
        ATTENTION, {"y": SEQUENCE, "queries": "all", "lengths": None, "mask": None,
                    "return_weights": False}
    ),
    "network()": (NET, {"x": SEQUENCE, "lengths": None, "mask": None, "return_attention": False}),
    "state_dict": (fb.state_dict, {"module": LSTM, "names": None, "ignore": ()}),
    "load_state_dict": (
        fb.load_state_dict,
        {"module": LSTM, "state_dict": fb.state_dict(LSTM), "names": None, "ignore": ()},
    ),
    "from_state_dict": (
        fb.from_state_dict, {"state_dict": fb.state_dict(LSTM), "param_dtype": None, "rngs": None}
    ),
    "optimizer_from_torch": (
        fb.optimizer_from_torch,
        {"model": LSTM, "optimizer_state_dict": OPTIMIZER, "parameters": None,
         "learning_rate": 0.1, "names": None, "ignore": ()},
    ),
    "load": (
        fb.load, {"path": GOLDEN, "into": LSTM, "names": None, "ignore": (), "prefix": None,
                  "key": None},
    ),
    "save": (fb.save, {"module": LSTM, "path": "?", "names": None}),
    "export": (export, {"model": LSTM, "inputs": None, "lengths": False, "mask": False}),
    "register_layer": (
        fb.register_layer, {"layer": Own, "rows": [("a", "b", SAME)], "torch": "", "rank": None}
    ),
    "make_mesh": (
        sharding.make_mesh,
        {"devices": None, "axis_type": jax.sharding.AxisType.Auto, "directions": 1},
    ),
    "replicate": (sharding.replicate, {"tree": SEQUENCE, "mesh": MESH}),
    "shard_batch": (sharding.shard_batch, {"tree": SEQUENCE, "mesh": MESH}),
    "pad_batch": (sharding.pad_batch, {"tree": SEQUENCE, "multiple": 2}),
    "linen.bridge": (fb.linen.bridge, {"kind": fb.LSTM, "name": None}),
    "linen.to_variables": (fb.linen.to_variables, {"module": LSTM}),
    "linen.to_module": (
        fb.linen.to_module,
        {"model": LINEN, "variables": fb.linen.to_variables(LSTM), "rngs": None},
    ),
}  # fmt: skip
EXPECTED = {"carry": "carry", "optimizer_state_dict": "optimizer"}
"""How the error calls an argument that it does not call by its name."""

FITS = {
    ("LSTM", "dtype"): {"class"},
    ("optimizer_from_torch", "learning_rate"): {"huge", "class"},
    **{("load", name): {"text"} for name in ("path", "prefix", "key")},
    ("save", "path"): {"text"},
    ("export", "inputs"): {"shape"},
    ("register_layer", "layer"): {"class"},
    ("register_layer", "torch"): {"text"},
    ("register_layer", "rank"): {"huge"},
    ("replicate", "tree"): {"complex", "dict", "list", "array", "key", "nan"},
    ("pad_batch", "tree"): {"array"},
    ("linen.bridge", "kind"): {"class"},
    ("linen.bridge", "name"): {"text"},
}
"""Values that do fit an argument, which are not passed: a class is callable, as a schedule is."""


@pytest.mark.parametrize(("door", "argument"), [(d, a) for d in DOORS for a in DOORS[d][1]])
@pytest.mark.filterwarnings("ignore")
def test_bad_calls_end_in_one_sentence_that_names_the_argument(door, argument):
    function, arguments = DOORS[door]
    for kind, value in ODD.items():
        if kind in FITS.get((door, argument), ()):
            continue
        with pytest.raises((TypeError, ValueError)) as caught:
            function(**{**arguments, argument: value})
        message = str(caught.value)
        name = EXPECTED.get(argument, argument)
        assert message.startswith(name) or argument == "inputs", (kind, message)
        assert "expected" in message, (kind, message)
        assert len(message) < 700, (kind, message)
