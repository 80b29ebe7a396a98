"""The faults that `parity selftest` plants, one at a time, and what the harness must say of each.

Adding a fault is adding a row: what it is, where it must be found, when it shows, and how it is
planted (`parity.mutants`). Strengths are realistic: what ports get wrong, not noise.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx

from flax_bilstm import lstm, network
from flax_bilstm.recurrence import State
from parity import mutants as plant
from parity.losses import MEAN_SQUARED_ERROR, Loss
from parity.mutants import Held, Plant
from parity.optimizers import ADAM, ADAMW, MOMENTUM, SGD, Optimizer

SHOWS = {
    "parameters": "in what the model holds",
    "forward": "in every direction, at every step",
    "one direction": "in one direction only",
    "later steps": "after some time steps only",
    "padding": "in padded batches only",
    "gradients": "in gradients only",
    "float32": "in float32 only",
    "not finite": "as NaN or infinity on one side",
    "training": "in training only",
}


@dataclass(frozen=True)
class Mutation:
    """One fault.

    Attributes:
        name: what it is.
        stage: the name that the report's first divergence must have.
        shows: a key of SHOWS.
        says: what its diagnosis must contain; "" where no known mistake explains the fault.
        plant: puts the fault into the code.
        hold: puts the fault into the candidate's parameters.
        case: the inputs, a key of `parity.selftest.CASES`.
        optimizer: what to train with: the reference right, the candidate with the fault.
        loss: what to descend, likewise.
    """

    name: str
    stage: str
    shows: str
    says: str = ""
    plant: Plant = plant.nothing
    hold: Callable[[Held], Held] = lambda held: held
    case: str = "plain"
    optimizer: Optimizer | None = None
    loss: Loss = MEAN_SQUARED_ERROR


def cell(number: str, gate: str) -> str:
    """The stage of a part of a direction of the first layer."""
    return f"lstm.layer0.{number}.{gate}"


def fed(optimizer: Optimizer, transformation: optax.GradientTransformation) -> Optimizer:
    """The twins with another optax side."""
    return replace(optimizer, optax=transformation)


def _nan_at_first(array: np.ndarray) -> np.ndarray:
    spoiled = array.copy()
    spoiled.flat[0] = np.nan
    return spoiled


def _folded(held: Held) -> Held:
    sums = {n: a + held[n.replace("_ih_", "_hh_")] for n, a in held.items() if "bias_ih" in n}
    zeros = {n: np.zeros_like(a) for n, a in held.items() if "bias_hh" in n}
    return {**held, **sums, **zeros}


def _directions_exchanged(held: Held) -> Held:
    def other(name: str) -> str:
        return name.removesuffix("_reverse") if name.endswith("_reverse") else f"{name}_reverse"

    return {n: held[other(n)] if n.startswith("lstm.") else a for n, a in held.items()}


PARAMETERS = (
    Mutation("gates in another order (i, o, f, g: ONNX) in all tensors", "lstm.weight_ih_l0",
             "parameters", "order", hold=plant.changed(plant.blocks((0, 3, 1, 2)), "lstm.")),
    Mutation("gates of one tensor in Keras's order of another release",
             "lstm.weight_hh_l0_reverse", "parameters", "forget and cell gates are exchanged",
             hold=plant.changed(plant.blocks((0, 2, 1, 3)), "weight_hh_l0_reverse")),
    Mutation("hidden-to-hidden blocks transposed", "lstm.weight_hh_l0", "parameters", "transposed",
             hold=plant.changed(lambda a: np.concatenate([b.T for b in np.split(a, 4)]),
                                "weight_hh")),
    Mutation("biases folded into one", "lstm.bias_ih_l0", "parameters", "folded", hold=_folded),
    Mutation("directions exchanged", "lstm.weight_ih_l0", "parameters",
             "holds lstm.weight_ih_l0_reverse", hold=_directions_exchanged),
    Mutation("square head transposed", "fc.weight", "parameters", "transposed",
             hold=plant.changed(lambda a: a.T, "fc.weight")),
    Mutation("checkpoint rounded to bfloat16", "lstm.weight_ih_l0", "parameters", "bfloat16",
             hold=lambda held: {n: np.asarray(jnp.asarray(a, jnp.bfloat16)).astype(a.dtype)
                                for n, a in held.items()}),
    Mutation("the attention's unused Linear drawn anew", "attention.attn.weight", "parameters",
             hold=plant.changed(lambda a: np.random.default_rng(1).uniform(-1, 1, a.shape)
                                .astype(a.dtype), "attn.weight")),
    Mutation("a NaN in the head's bias", "fc.bias", "not finite",
             hold=plant.changed(_nan_at_first, "fc.bias")),
)  # fmt: skip

CELL = (
    Mutation("input and forget gates exchanged, reverse only", cell("reverse", "input_gate"),
             "one direction", "input and forget gates are exchanged",
             plant.weights(plant.gate_order((1, 0, 2, 3)), "reverse")),
    Mutation("cell and output gates exchanged (Flax's own order)", cell("forward", "cell_gate"),
             "forward", "cell and output gates are exchanged",
             plant.weights(plant.gate_order((0, 1, 3, 2)))),
    Mutation("gates taken as i, o, f, g", cell("forward", "forget_gate"), "forward",
             "order i, o, f, g", plant.weights(plant.gate_order((0, 3, 1, 2)))),
    Mutation("hidden-to-hidden blocks transposed in the code", cell("forward", "input_gate"),
             "forward", "transposed", plant.weights(plant.turned_blocks)),
    Mutation("bias_hh missing", cell("forward", "input_gate"), "forward", "bias_hh is missing",
             plant.weights(plant.multiplied("bias_hh", 0))),
    Mutation("bias_ih added twice, forward only", cell("forward", "input_gate"), "one direction",
             "bias_ih is added twice",
             plant.weights(plant.multiplied("bias_ih", 2), "forward")),
    Mutation("forget gate's bias plus 1 (Keras, Flax)", cell("forward", "forget_gate"), "forward",
             "1 is added", plant.loop(plant.cell(before=lambda f: f + 1))),
    Mutation("hard sigmoid", cell("forward", "input_gate"), "forward", "hard",
             plant.loop(plant.cell(sigmoid=plant.hard))),
    Mutation("sigmoid for the cell gate's tanh", cell("reverse", "cell_gate"), "one direction",
             "sigmoid for tanh",
             plant.loop(plant.cell(candidate=jax.nn.sigmoid), "reverse")),
    Mutation("no tanh on the new cell state", cell("forward", "hidden"), "forward",
             "tanh on the new cell state is missing",
             plant.loop(plant.cell(squash=lambda c: c))),
    Mutation("the output reads the old cell state", cell("forward", "hidden"), "forward",
             "old cell state", plant.loop(plant.cell(shown=lambda new, old: old))),
    Mutation("coupled gates: input = 1 − forget", cell("forward", "input_gate"), "forward",
             "1 − the forget gate",
             plant.loop(plant.cell(combine=lambda i, f, g, c: f * c + (1 - f) * g))),
    Mutation("h and c exchanged", cell("forward", "carry"), "forward", "h and c are exchanged",
             plant.loop(plant.cell(enter=lambda s: State(s.cell, s.hidden)))),
    Mutation("the cell state kept in float32", cell("forward", "carry"), "forward", "float32",
             plant.loop(plant.cell(combine=lambda i, f, g, c: (f * c + i * g)
                                   .astype(jnp.float32).astype(c.dtype)))),
    Mutation("an error of 1e-9 per step, growing", cell("forward", "carry"), "forward", "times",
             plant.loop(plant.cell(combine=lambda i, f, g, c: (f * c + i * g) * (1 + 1e-9)))),
)  # fmt: skip


def _restarting(every: int) -> Any:
    def fault(real: Any, w: Any, x: Any, state: Any, valid: Any, reverse: bool) -> Any:
        starts = range(0, x.shape[0], every)
        if reverse:
            starts = range(x.shape[0] % -every, x.shape[0], every)
        pieces = [
            real(w, x[max(t, 0) : t + every], state, None if valid is None else valid[t:t + every],
                 reverse)
            for t in starts
        ]  # fmt: skip
        final = pieces[0 if reverse else -1][1]
        return jnp.concatenate([outputs for outputs, _ in pieces]), final

    return fault


def _truncated(every: int) -> Any:
    def fault(real: Any, w: Any, x: Any, state: Any, valid: Any, reverse: bool) -> Any:
        outputs = []
        for t in range(0, x.shape[0], every):
            state = State(*map(jax.lax.stop_gradient, state)) if t else state
            output, state = real(w, x[t : t + every], state, None, reverse)
            outputs.append(output)
        return jnp.concatenate(outputs), state

    return fault


def _after(t: int, change: Any) -> Any:
    """From step t on, the weights are changed."""

    def fault(real: Any, w: Any, x: Any, state: Any, valid: Any, reverse: bool) -> Any:
        first, state = real(w, x[:t], state, None, reverse)
        if x.shape[0] <= t:
            return first, state
        rest, state = real(change(w), x[t:], state, None, reverse)
        return jnp.concatenate([first, rest]), state

    return fault


def _late(real: Any, w: Any, x: Any, state: Any, valid: Any, reverse: bool) -> Any:
    if x.shape[0] == 1:
        return real(w, x, state, valid, reverse)
    return real(w, jnp.concatenate([0 * x[:1], x[:-1]]), state, valid, reverse)


def _flipped_outputs(real: Any, *arguments: Any) -> Any:
    outputs, final = real(*arguments)
    return outputs[::-1], final


def _ones(call: Any, module: Any, x: Any, initial_state: Any = None, lengths: Any = None) -> Any:
    if initial_state is None:
        shape = (2, x.shape[0], module.hidden_size)
        initial_state = (jnp.ones(shape, x.dtype), jnp.ones(shape, x.dtype))
    return call(x, initial_state, lengths)


def _swapped_halves(y: Any) -> Any:
    return jnp.concatenate(jnp.split(y, 2, axis=-1)[::-1], axis=-1)


TIME = (
    Mutation("reverse direction not flipped", cell("reverse", "outputs"), "one direction",
             "first step to the last",
             plant.recurrence(lambda real, w, x, s, valid, reverse: real(w, x, s, valid, False))),
    Mutation("reverse direction's outputs not flipped back", cell("reverse", "outputs"),
             "one direction", "not flipped back", plant.recurrence(_flipped_outputs, "reverse")),
    Mutation("both directions run in reverse", cell("forward", "outputs"), "one direction",
             "last step to the first",
             plant.recurrence(lambda real, w, x, s, valid, reverse: real(w, x, s, valid, True))),
    Mutation("x read one step late", cell("forward", "outputs"), "forward", "one step late",
             plant.recurrence(_late, "forward")),
    Mutation("state starts at 1", cell("forward", "outputs"), "forward", "starts at 1",
             plant.calling(lstm.LSTM, _ones)),
    Mutation("state restarts at step 16", cell("forward", "outputs"), "later steps",
             "every 16 steps", plant.recurrence(_restarting(16), "forward")),
    Mutation("weights changed from step 10 on", cell("forward", "outputs"), "later steps", "",
             plant.recurrence(_after(10, plant.turned_blocks), "forward")),
    Mutation("halves of the output swapped", "lstm.layer0.output", "forward", "halves are swapped",
             plant.lstm_results(lambda y, h, c: (_swapped_halves(y), h, c))),
    Mutation("reverse half of the output missing", "lstm.layer0.output", "forward", "missing",
             plant.lstm_results(lambda y, h, c: (y.at[..., y.shape[-1] // 2 :].set(0), h, c))),
    Mutation("h_n in the order reverse, forward", "lstm.h_n", "forward", "",
             plant.lstm_results(lambda y, h, c: (y, h[::-1], c))),
    Mutation("c_n returned for h_n", "lstm.h_n", "forward", "",
             plant.lstm_results(lambda y, h, c: (y, c, c))),
)  # fmt: skip


def _unmasked(real: Any, w: Any, x: Any, state: Any, valid: Any, reverse: bool) -> Any:
    outputs, final = real(w, x, state, None, reverse)
    return outputs if valid is None else jnp.where(valid, outputs, 0 * outputs), final


def _late_final(real: Any, w: Any, x: Any, state: Any, valid: Any, reverse: bool) -> Any:
    outputs, _ = real(w, x, state, valid, reverse)
    return outputs, real(w, x, state, None, reverse)[1]


def _left_in_padding(real: Any, w: Any, x: Any, state: Any, valid: Any, reverse: bool) -> Any:
    outputs, final = real(w, x, state, valid, reverse)
    return (outputs if valid is None else jnp.where(valid, outputs, 1 + 0 * outputs)), final


PADDING = (
    Mutation("reverse direction starts in the padding", cell("reverse", "outputs"), "padding",
             "padding is run through", plant.recurrence(_unmasked, "reverse"), case="padded"),
    Mutation("outputs in the padding not 0", cell("forward", "outputs"), "padding", "",
             plant.recurrence(_left_in_padding, "forward"), case="padded"),
    Mutation("final state after the padding", cell("forward", "final_state"), "padding",
             "padding is run through", plant.recurrence(_late_final, "forward"), case="padded"),
    Mutation("lengths one too long", cell("forward", "outputs"), "padding", "",
             plant.patched(lstm, "validity", lambda real: lambda n, time: real(n + 1, time)),
             case="padded"),
    Mutation("attention to padding", "attention.weights", "padding", "padding is attended to",
             plant.attention(plant.attend(masked=False)), case="padded"),
    Mutation("the query is the batch's last step", "attention.weights", "padding",
             "the batch's last step",
             plant.attention(plant.attend(last=lambda n: 0 * n + n.max() - 1)), case="padded"),
)  # fmt: skip

AFTER = (
    Mutation("softmax over the queries", "attention.weights", "forward", "over the queries",
             plant.attention(plant.over_queries)),
    Mutation("scores divided by √d", "attention.weights", "forward", "divided by √d",
             plant.attention(plant.attend(scores=lambda s: s / 8**0.5))),
    Mutation("the query is the first step", "attention.weights", "forward", "first step",
             plant.attention(plant.attend(query=0))),
    Mutation("the last step does not attend to itself", "attention.weights", "forward", "itself",
             plant.attention(plant.attend(scores=lambda s: s.at[:, -1].set(-jnp.inf)))),
    Mutation("the attention's Linear applied", "attention.weights", "forward", "Linear",
             plant.calling(network.Attention, lambda call, module, y, **options: (
                 plant.attend(scores=lambda s: jnp.einsum(
                     "bf,btf->bt", y[:, -1],
                     y @ module.attn.kernel[...] + module.attn.bias[...][None, None],
                 ))(None, y, None)
             ))),
    Mutation("sigmoids for the softmax", "attention.weights", "forward", "sigmoids",
             plant.attention(plant.attend(weigh=jax.nn.sigmoid))),
    Mutation("context of values one step late", "attention.context", "forward", "",
             plant.attention(plant.attend(values=lambda y: jnp.roll(y, 1, axis=1)))),
    Mutation("head reads the first step", "output", "forward", "first step's context",
             plant.head(lambda y, everything: everything[:, 0])),
    Mutation("head reads the mean of all steps", "output", "forward", "mean of all contexts",
             plant.head(lambda y, everything: everything.mean(axis=1))),
    Mutation("head reads the LSTM, not the attention", "output", "forward", "LSTM's last output",
             plant.head(lambda y, everything: y[:, -1])),
    Mutation("head's bias missing", "output", "forward", "bias is missing",
             plant.calling(network.BiLSTMWithAttention, lambda call, model, x, **options: (
                 call(x, **options) - model.fc.bias[...][None]))),
    Mutation("head's square weight transposed in the code", "output", "forward", "transposed",
             plant.calling(nnx.Linear, lambda call, module, x: (
                 x @ module.kernel[...].T + module.bias[...][None]))),
)  # fmt: skip


def _halved_gradient(real: Any, w: Any, x: Any, state: Any, valid: Any, reverse: bool) -> Any:
    return real(
        w._replace(kernel_hh=plant.scaled_slope(0.5)(w.kernel_hh)), x, state, valid, reverse
    )


def _sum_of_squares(output: Any, target: Any) -> Any:
    return jnp.sum(jnp.square(output - target))


GRADIENTS = (
    Mutation("folded biases: bias_hh gets no gradient", cell("reverse", "input_gate"), "gradients",
             "bias_hh gets no gradient", plant.weights(plant.stopped("bias_hh"))),
    Mutation("gradient of weight_hh halved", cell("forward", "input_gate"), "gradients", "0.5",
             plant.recurrence(_halved_gradient, "forward")),
    Mutation("no gradient into the previous hidden state", cell("reverse", "input_gate"),
             "gradients", "no gradient flows into the previous hidden state",
             plant.loop(plant.cell(enter=lambda s: s._replace(
                 hidden=jax.lax.stop_gradient(s.hidden))))),
    Mutation("no gradient into the previous cell state", cell("reverse", "carry"), "gradients",
             "no gradient flows into the previous cell state",
             plant.loop(plant.cell(enter=lambda s: s._replace(
                 cell=jax.lax.stop_gradient(s.cell))))),
    Mutation("forget gate's derivative f, not f (1 − f)", cell("reverse", "forget_gate"),
             "gradients", "",
             plant.loop(plant.cell(before=lambda f: f, combine=lambda i, f, g, c: (
                 plant.with_slope(lambda z: z, lambda f: 1 / (1 - f))(f) * c + i * g)))),
    Mutation("derivative of the cell gate's tanh missing", cell("reverse", "cell_gate"),
             "gradients", "derivative of the cell gate's tanh",
             plant.loop(plant.cell(candidate=plant.with_slope(jnp.tanh, jnp.ones_like)))),
    Mutation("gradient cut every 8 steps", cell("forward", "outputs"), "gradients",
             "gradients stop every 8 steps", plant.recurrence(_truncated(8), "forward")),
    Mutation("no gradient through the attention weights", "attention.weights", "gradients",
             "no gradient flows through the weights",
             plant.attention(plant.attend(weigh=lambda s: jax.lax.stop_gradient(
                 jax.nn.softmax(s, axis=-1))))),
    Mutation("no gradient into the values", "attention.context", "gradients",
             "no gradient flows into the values",
             plant.attention(plant.attend(values=jax.lax.stop_gradient))),
    Mutation("no gradient into the reverse half", "lstm.layer0.output", "gradients",
             "no gradient flows into the reverse half",
             plant.lstm_results(lambda y, h, c: (jnp.concatenate(
                 [y[..., :4], jax.lax.stop_gradient(y[..., 4:])], axis=-1), h, c))),
    Mutation("sign of the head's gradient turned", "output", "gradients", "-1 times",
             plant.calling(nnx.Linear, lambda call, module, x: plant.scaled_slope(-1.0)(call(x)))),
    Mutation("gradient of a sum, loss of a mean", "loss", "gradients", "24 times",
             loss=replace(MEAN_SQUARED_ERROR, jax=lambda output, target: (
                 _sum_of_squares(output, target) - jax.lax.stop_gradient(
                     _sum_of_squares(output, target) * (1 - 1 / output.size))))),
    Mutation("the unused Linear is a trained parameter", "attention.attn.bias", "gradients", "",
             plant.patched(network, "Unused", lambda real: nnx.Param)),
)  # fmt: skip


def _rounded_gradient(real: Any, *arguments: Any) -> Any:
    outputs, final = real(*arguments)
    return _bfloat16_cotangent(outputs), final


@jax.custom_vjp
def _bfloat16_cotangent(y: Any) -> Any:
    return y


_bfloat16_cotangent.defvjp(
    lambda y: (y, None),
    lambda _, cotangent: (plant.only_float32(plant.bfloat16)(cotangent),),
)

_TF32 = plant.only_float32(plant.tf32)
_BFLOAT16 = plant.only_float32(plant.bfloat16)

PRECISION = (
    Mutation("recurrence's products in bfloat16", cell("forward", "input_gate"), "float32",
             "bfloat16", plant.product(_BFLOAT16)),
    Mutation("recurrence's products in TF32", cell("forward", "input_gate"), "float32", "TF32",
             plant.product(_TF32)),
    Mutation("cell state kept in bfloat16", cell("forward", "carry"), "float32", "bfloat16",
             plant.loop(plant.cell(combine=lambda i, f, g, c: _BFLOAT16(f * c + i * g)))),
    Mutation("softmax in bfloat16", "attention.weights", "float32", "bfloat16",
             plant.attention(plant.attend(weigh=lambda s: _BFLOAT16(
                 jax.nn.softmax(_BFLOAT16(s), axis=-1))))),
    Mutation("head in TF32", "output", "float32", "TF32",
             plant.calling(nnx.Linear, lambda call, module, x: (
                 _TF32(x) @ _TF32(module.kernel[...]) + module.bias[...][None]))),
    Mutation("gradients handed back in bfloat16", cell("reverse", "outputs"), "float32", "bfloat16",
             plant.recurrence(_rounded_gradient, "reverse")),
)  # fmt: skip


def _guarded_root(real: Any, *arguments: Any) -> Any:
    outputs, final = real(*arguments)
    return jnp.where(outputs < 2, outputs, jnp.sqrt(outputs - outputs)), final


NOT_FINITE = (
    Mutation("tanh as (exp 2z − 1) / (exp 2z + 1)", cell("forward", "cell_gate"), "not finite", "",
             plant.loop(plant.cell(candidate=plant.exponential_tanh)), case="large"),
    Mutation("derivative of σ by exp(−z), which overflows", cell("reverse", "input_gate"),
             "not finite", "", plant.loop(plant.cell(sigmoid=plant.exponential_sigmoid)),
             case="large"),
    Mutation("gradient of a root behind a where", cell("reverse", "outputs"), "not finite", "",
             plant.recurrence(_guarded_root, "reverse")),
)  # fmt: skip


def _eps_inside(rate: float) -> optax.GradientTransformation:
    return optax.adam(rate, b1=0.9, b2=0.999, eps=0.0, eps_root=1e-8)


def _uncorrected(rate: float) -> optax.GradientTransformation:
    def update(gradients: Any, state: Any, parameters: Any = None) -> Any:
        m, v = state.mu, state.nu
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradients)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, gradients)
        steps = jax.tree.map(lambda m, v: -rate * m / (jnp.sqrt(v) + 1e-8), m, v)
        return steps, optax.ScaleByAdamState(state.count + 1, m, v)

    return optax.GradientTransformation(optax.scale_by_adam().init, update)


def _frozen(optimizer: optax.GradientTransformation, name: str) -> optax.GradientTransformation:
    def update(gradients: Any, state: Any, parameters: Any = None) -> Any:
        steps, state = optimizer.update(gradients, state, parameters)
        return jax.tree_util.tree_map_with_path(
            lambda path, step: 0 * step if name in jax.tree_util.keystr(path) else step, steps
        ), state

    return optax.GradientTransformation(optimizer.init, update)


def _clipped_kernel(call: Any, module: Any, x: Any) -> Any:
    bound = 8**-0.5  # of the initial distribution: nothing is clipped until something is trained
    return x @ jnp.clip(module.kernel[...], -bound, bound) + module.bias[...][None]


_FAST = Optimizer("sgd at 0.5", lambda p: torch.optim.SGD(p, lr=0.5), optax.sgd(0.5))

TRAINING = (
    Mutation("AdamW with optax's default weight decay", "lstm.weight_ih_l0", "training",
             "1e-4, optax's default", optimizer=fed(ADAMW, optax.adamw(1e-3))),
    Mutation("Adam with L2 for AdamW", "lstm.weight_ih_l0.exp_avg", "training", "Adam with L2",
             optimizer=fed(ADAMW, optax.chain(optax.add_decayed_weights(1e-2), optax.adam(1e-3)))),
    Mutation("Keras's eps, 1e-7", "lstm.weight_ih_l0", "training", "1e-7",
             optimizer=fed(ADAM, optax.adam(1e-3, eps=1e-7))),
    Mutation("eps inside the root", "lstm.weight_ih_l0", "training", "inside the square root",
             optimizer=fed(ADAM, _eps_inside(1e-3))),
    Mutation("beta 2 of 0.99", "lstm.weight_ih_l0.exp_avg_sq", "training", "beta 2 is 0.99",
             optimizer=fed(ADAM, optax.adam(1e-3, b2=0.99))),
    Mutation("no bias correction", "lstm.weight_ih_l0", "training", "not corrected",
             optimizer=fed(ADAM, _uncorrected(1e-3))),
    Mutation("Nesterov momentum", "lstm.weight_ih_l0", "training", "Nesterov",
             optimizer=fed(MOMENTUM, optax.sgd(0.01, momentum=0.9, nesterov=True))),
    Mutation("momentum dampened", "lstm.weight_ih_l0.momentum_buffer", "training", "moving average",
             optimizer=fed(MOMENTUM, optax.chain(optax.scale(0.1), optax.sgd(0.01, momentum=0.9)))),
    Mutation("learning rate doubled", "lstm.weight_ih_l0", "training", "learning rate is 2 times",
             optimizer=fed(SGD, optax.sgd(0.02))),
    Mutation("a bias left out of the update", "lstm.bias_hh_l0", "training", "",
             optimizer=fed(SGD, _frozen(optax.sgd(0.01), "bias_hh"))),
    Mutation("the head's weight clipped to where it started", "output", "training", "",
             plant.calling(nnx.Linear, _clipped_kernel), optimizer=_FAST),
)  # fmt: skip

MUTATIONS: tuple[Mutation, ...] = (
    *PARAMETERS, *CELL, *TIME, *PADDING, *AFTER, *GRADIENTS, *PRECISION, *NOT_FINITE, *TRAINING,
)  # fmt: skip
"""Every fault of the self-test."""
