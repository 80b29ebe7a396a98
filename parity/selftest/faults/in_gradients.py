"""Faults that leave every value right."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flax_bilstm import network
from flax_bilstm.recurrence.equations import State
from parity.selftest import pieces, planting
from parity.selftest.fault import UNKNOWN, Fault, cell, more_steps_than
from parity.selftest.networks.ours import BATCH, HIDDEN_DIM, OUTPUT_DIM
from parity.sides.losses import MEAN_SQUARED_ERROR
from parity.sides.side import TARGET


def _sum_of_squares(output: Any, inputs: Any) -> Any:
    return jnp.sum(jnp.square(output - inputs[TARGET]))


GRADIENTS = (
    # All four gates read the biases and the hidden state, so the place is the step, not a gate.
    Fault("folded biases: bias_hh gets no gradient", cell("reverse", "step"), "gradients",
             "bias_hh gets no gradient, as where both biases are folded into one",
             planting.weights(pieces.stopped("bias_hh"))),
    Fault("gradient of weight_hh halved", cell("forward", "input_gate"), "gradients",
             "it is 0.5 times what it should be",
             planting.weights(lambda w: w._replace(
                 kernel_hh=pieces.scaled_slope(0.5)(w.kernel_hh)), "forward")),
    Fault("no gradient into the previous hidden state", cell("reverse", "step"),
             "gradients", "no gradient flows into the previous hidden state",
             planting.loop(pieces.cell(enter=lambda s: s._replace(
                 hidden=jax.lax.stop_gradient(s.hidden))))),
    Fault("no gradient into the previous cell state", cell("reverse", "carry"), "gradients",
             "no gradient flows into the previous cell state",
             planting.loop(pieces.cell(enter=lambda s: s._replace(
                 cell=jax.lax.stop_gradient(s.cell))))),
    Fault("forget gate's derivative f, not f (1 − f)", cell("reverse", "forget_gate"),
             "gradients", UNKNOWN,
             planting.loop(pieces.cell(forget=pieces.with_slope(jax.nn.sigmoid, jax.nn.sigmoid)))),
    Fault("derivative of the cell gate's tanh missing", cell("reverse", "cell_gate"),
             "gradients", "the derivative of the cell gate's tanh is missing",
             planting.loop(pieces.cell(candidate=pieces.with_slope(jnp.tanh, jnp.ones_like)))),
    Fault("gradient cut every 8 steps", cell("forward", "outputs"), "gradients",
             "gradients stop every 8 steps", needs=more_steps_than(8), plant=
             planting.in_pieces(8, lambda start, state: State(
                 *map(jax.lax.stop_gradient, state)))),
    # The gradient at lstm.output is wrong; the attention, which reads that output, makes the error.
    Fault("no gradient through the attention weights", "attention", "gradients",
             "no gradient flows through the weights",
             planting.attention(pieces.attend(weigh=lambda s: jax.lax.stop_gradient(
                 jax.nn.softmax(s, axis=-1))))),
    Fault("no gradient into the values", "attention", "gradients",
             "no gradient flows into the values",
             planting.attention(pieces.attend(values=jax.lax.stop_gradient))),
    Fault("no gradient into the reverse half", "lstm.layer0.output", "gradients",
             "no gradient flows into the reverse half",
             planting.lstm_results(lambda y, h, c: (jnp.concatenate(
                 [y[..., :HIDDEN_DIM], jax.lax.stop_gradient(y[..., HIDDEN_DIM:])], -1), h, c))),
    Fault("sign of the head's gradient turned", "fc", "gradients",
             "the sign of the gradient is turned",
             planting.calling(nnx.Linear, lambda call, module, x: (
                 pieces.scaled_slope(-1.0)(call(x))))),
    Fault("gradient of a sum, loss of a mean", "loss", "gradients",
             f"it is {BATCH * OUTPUT_DIM} times what it should be",
             loss=replace(MEAN_SQUARED_ERROR, jax=lambda output, inputs: (
                 _sum_of_squares(output, inputs) - jax.lax.stop_gradient(
                     _sum_of_squares(output, inputs) * (1 - 1 / output.size))))),
    Fault("the unused Linear is a trained parameter", "attention.attn.bias", "gradients",
             "the reference never trains it",
             planting.patched(network, "Unused", lambda real: nnx.Param)),
)  # fmt: skip
