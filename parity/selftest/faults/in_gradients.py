"""Faults that leave every value right."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flax_bilstm import network
from flax_bilstm.recurrence.equations import State
from parity.losses import MEAN_SQUARED_ERROR
from parity.mutations import faults, planting
from parity.mutations.mutation import Mutation, cell


def _sum_of_squares(output: Any, target: Any) -> Any:
    return jnp.sum(jnp.square(output - target))


GRADIENTS = (
    Mutation("folded biases: bias_hh gets no gradient", cell("reverse", "input_gate"), "gradients",
             "bias_hh gets no gradient", planting.weights(faults.stopped("bias_hh"))),
    Mutation("gradient of weight_hh halved", cell("forward", "input_gate"), "gradients", "0.5",
             planting.weights(lambda w: w._replace(
                 kernel_hh=faults.scaled_slope(0.5)(w.kernel_hh)), "forward")),
    Mutation("no gradient into the previous hidden state", cell("reverse", "input_gate"),
             "gradients", "no gradient flows into the previous hidden state",
             planting.loop(faults.cell(enter=lambda s: s._replace(
                 hidden=jax.lax.stop_gradient(s.hidden))))),
    Mutation("no gradient into the previous cell state", cell("reverse", "carry"), "gradients",
             "no gradient flows into the previous cell state",
             planting.loop(faults.cell(enter=lambda s: s._replace(
                 cell=jax.lax.stop_gradient(s.cell))))),
    Mutation("forget gate's derivative f, not f (1 − f)", cell("reverse", "forget_gate"),
             "gradients", "",
             planting.loop(faults.cell(forget=faults.with_slope(jax.nn.sigmoid, jax.nn.sigmoid)))),
    Mutation("derivative of the cell gate's tanh missing", cell("reverse", "cell_gate"),
             "gradients", "derivative of the cell gate's tanh",
             planting.loop(faults.cell(candidate=faults.with_slope(jnp.tanh, jnp.ones_like)))),
    Mutation("gradient cut every 8 steps", cell("forward", "outputs"), "gradients",
             "gradients stop every 8 steps",
             planting.in_pieces(8, lambda start, state: State(
                 *map(jax.lax.stop_gradient, state)))),
    Mutation("no gradient through the attention weights", "attention.weights", "gradients",
             "no gradient flows through the weights",
             planting.attention(faults.attend(weigh=lambda s: jax.lax.stop_gradient(
                 jax.nn.softmax(s, axis=-1))))),
    Mutation("no gradient into the values", "attention.context", "gradients",
             "no gradient flows into the values",
             planting.attention(faults.attend(values=jax.lax.stop_gradient))),
    Mutation("no gradient into the reverse half", "lstm.layer0.output", "gradients",
             "no gradient flows into the reverse half",
             planting.lstm_results(lambda y, h, c: (jnp.concatenate(
                 [y[..., :4], jax.lax.stop_gradient(y[..., 4:])], axis=-1), h, c))),
    Mutation("sign of the head's gradient turned", "output", "gradients", "-1 times",
             planting.calling(nnx.Linear, lambda call, module, x: (
                 faults.scaled_slope(-1.0)(call(x))))),
    Mutation("gradient of a sum, loss of a mean", "loss", "gradients", "24 times",
             loss=replace(MEAN_SQUARED_ERROR, jax=lambda output, target: (
                 _sum_of_squares(output, target) - jax.lax.stop_gradient(
                     _sum_of_squares(output, target) * (1 - 1 / output.size))))),
    Mutation("the unused Linear is a trained parameter", "attention.attn.bias", "gradients",
             "the reference never uses it",
             planting.patched(network, "Unused", lambda real: nnx.Param)),
)  # fmt: skip
