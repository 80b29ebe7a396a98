"""Faults in an encoder with a decoder of LSTMCells, and in a layer run by `nnx.RNN`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from flax_bilstm import LSTMCell
from flax_bilstm import cell as cells
from flax_bilstm.recurrence.equations import State
from parity.selftest import pieces, planting
from parity.selftest.fault import UNKNOWN, Fault
from parity.selftest.faults.in_training import fed
from parity.selftest.networks.decoders import Decoder, Recurrent
from parity.sides.optimizers import SGD

method = planting.method


def _step(step: object) -> planting.Plant:
    """Every `LSTMCell` runs `step` instead of its own equations."""
    return planting.patched(cells, "cell_step", lambda real: step)


def _joined(change: Callable[..., Any], y: Any) -> Any:
    """Both halves of the features, changed and put together."""
    return jnp.concatenate(change(*jnp.split(y, 2, axis=-1)), axis=-1)


DECODER = (
    Fault("the decoder starts from h and c exchanged", "cell.before.hidden", "forward",
          "it is cell.before.cell",
          method(Decoder, "begin", lambda real, model, h, c: (h[-1], c[-1])), case="decoder"),
    Fault("the decoder starts from zero", "cell.before.hidden", "forward", "it is zero",
          method(Decoder, "begin", lambda real, model, h, c: (0 * c[-1], 0 * h[-1])),
          case="decoder"),
    Fault("the decoder starts from h alone", "cell.before.cell", "forward", "it is zero",
          method(Decoder, "begin", lambda real, model, h, c: (0 * c[-1], h[-1])),
          case="decoder"),
    Fault("no gradient into the encoder", "encoder.c_n", "gradients", "no gradient",
          method(Decoder, "begin", lambda real, model, h, c: tuple(
              map(jax.lax.stop_gradient, (c[-1], h[-1])))), case="decoder"),
    Fault("the decoder reads the first step first", "cell.input", "forward", "first step",
          method(Decoder, "first", lambda real, model, x: x[:, 0]), case="decoder"),
    Fault("the decoder reads zeros first", "cell.input", "forward", "it is zero",
          method(Decoder, "first", lambda real, model, x: 0 * x[:, -1]), case="decoder"),
    Fault("the decoder reads the last step always", "cell[1].input", "forward",
          "last step", method(Decoder, "feed", lambda real, model, said, x: x[:, -1]),
          case="decoder"),
    Fault("what has been said gets no gradient", "head[1]", "gradients", UNKNOWN,
          method(Decoder, "feed", lambda real, model, said, x: jax.lax.stop_gradient(said)),
          case="decoder"),
    Fault("forget gate's bias plus 1 in the cell", "cell.hidden", "forward", UNKNOWN,
          _step(pieces.cell(forget=lambda f: jax.nn.sigmoid(f + 1))), case="decoder"),
    Fault("the cell's output is its cell state", "head.input", "forward", "it is cell.cell",
          planting.calling(LSTMCell, lambda call, module, *given: (
              (carry := call(*given)[0]), carry[0])), case="decoder"),
    Fault("the cell's h and c exchanged", "cell.hidden", "forward", UNKNOWN,
          _step(pieces.cell(enter=lambda s: State(s.cell, s.hidden))), case="decoder"),
    Fault("the decoder's head without a bias", "head", "forward", "the bias is missing",
          planting.calling(nnx.Linear, lambda call, module, x: x @ module.kernel[...]),
          case="decoder"),
    Fault("the cell's biases folded", "cell.bias_ih", "parameters",
          "it holds the sum of both biases: bias_hh is folded into it",
          case="decoder", hold=lambda held: {
              **held, "cell.bias_ih": held["cell.bias_ih"] + held["cell.bias_hh"],
              "cell.bias_hh": 0 * held["cell.bias_hh"]}),
    Fault("the cell holds the encoder's weights", "cell.weight_ih", "parameters",
          "holds encoder.weight_ih_l0", case="decoder",
          hold=lambda held: {**held, "cell.weight_ih": held["encoder.weight_ih_l0"]}),
    Fault("learning rate halved in the decoder", "encoder.weight_ih_l0", "training",
          "the learning rate is 0.5 times what it should be",
          case="decoder", optimizer=fed(SGD, optax.sgd(0.005))),
)  # fmt: skip

RNN = (
    Fault("nnx.RNN: the reverse direction is not turned back", "head.input", "forward", UNKNOWN,
          method(Recurrent, "run", lambda real, model, x: (
              _joined(lambda f, r: (f, r[:, ::-1]), real(x)))), case="nnx.RNN"),
    Fault("nnx.RNN: the state starts at 1", "head.input", "forward", UNKNOWN,
          method(LSTMCell, "initialize_carry", lambda real, cell, *given: jax.tree.map(
              lambda zeros: zeros + 1, real(*given))), case="nnx.RNN"),
    Fault("nnx.RNN: forget gate's bias plus 1", "head.input", "forward", UNKNOWN,
          _step(pieces.cell(forget=lambda f: jax.nn.sigmoid(f + 1))), case="nnx.RNN"),
    Fault("nnx.RNN: hard sigmoid", "head.input", "forward", UNKNOWN,
          _step(pieces.cell(sigmoid=pieces.hard)), case="nnx.RNN"),
    Fault("nnx.RNN: no gradient through the cell state", "rnn", "gradients", UNKNOWN,
          _step(pieces.cell(enter=lambda s: s._replace(
              cell=jax.lax.stop_gradient(s.cell)))), case="nnx.RNN"),
    Fault("nnx.RNN: both ends for the last step", "head.input", "forward", UNKNOWN,
          method(Recurrent, "read", lambda real, model, y: (
              _joined(lambda f, r: (f[:, -1], r[:, 0]), y))), case="nnx.RNN"),
    Fault("nnx.RNN: gates as Keras has them", "rnn.weight_hh_l0", "parameters",
          "forget and cell gates are exchanged", case="nnx.RNN", hold=lambda held: {
              n: a[[*range(4), *range(8, 12), *range(4, 8), *range(12, 16)]]
              if n == "rnn.weight_hh_l0" else a for n, a in held.items()}),
)  # fmt: skip
