"""Faults in the loop over time, in padding, and in how directions are put together."""

from typing import Any

import jax.numpy as jnp

from flax_bilstm import lstm
from parity.selftest import pieces, planting
from parity.selftest.fault import UNKNOWN, Fault, cell, more_steps_than


def _after(t: int, change: Any) -> Any:
    """The weights are changed from step t on."""

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
    Fault("reverse direction not flipped", cell("reverse", "outputs"), "one direction",
             "the sequence is run from the first step to the last",
             planting.implementation(lambda real, *given: real(*given[:-1], False))),
    Fault("reverse direction's outputs not flipped back", cell("reverse", "outputs"),
             "one direction", "the outputs are in reverse order of time: not flipped back",
             planting.implementation(_flipped_outputs, "reverse")),
    Fault("reverse direction flipped twice", cell("reverse", "outputs"), "one direction",
             "the input is flipped twice or not at all, the outputs are flipped",
             planting.implementation(lambda real, w, x, *rest: (
                 real(w, x[::-1], *rest)), "reverse")),
    Fault("both directions run in reverse", cell("forward", "outputs"), "one direction",
             "the sequence is run from the last step to the first",
             planting.implementation(lambda real, *given: real(*given[:-1], True))),
    Fault("x read one step late", cell("forward", "outputs"), "forward", "x is read one step late",
             planting.implementation(_late, "forward")),
    Fault("state starts at 1", cell("forward", "outputs"), "forward", "the state starts at 1",
             planting.calling(lstm.LSTM, _ones)),
    Fault("state restarts at step 16", cell("forward", "outputs"), "later steps",
             "the state restarts from 0 every 16 steps",
             planting.in_pieces(16, lambda start, state: start),
             needs=more_steps_than(16)),
    Fault("weights changed from step 10 on", cell("forward", "outputs"), "later steps", UNKNOWN,
             planting.implementation(_after(10, pieces.turned_blocks), "forward"),
             needs=more_steps_than(10)),
    Fault("halves of the output swapped", "lstm.layer0.output", "forward",
             "the forward and reverse halves are swapped",
             planting.lstm_results(lambda y, h, c: (_swapped_halves(y), h, c))),
    Fault("reverse half of the output missing", "lstm.layer0.output", "forward",
             "the reverse half is missing",
             planting.lstm_results(lambda y, h, c: (y.at[..., y.shape[-1] // 2 :].set(0), h, c))),
    Fault("h_n in the order reverse, forward", "lstm.h_n", "forward",
             "layers and directions are in reverse order",
             planting.lstm_results(lambda y, h, c: (y, h[::-1], c))),
    Fault("c_n returned for h_n", "lstm.h_n", "forward", "it is the cell state",
             planting.lstm_results(lambda y, h, c: (y, c, c))),
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
    Fault("reverse direction starts in the padding", cell("reverse", "outputs"), "padding",
             "padding is run through like any step",
             planting.implementation(_unmasked, "reverse"),
             case="padded"),
    Fault("outputs in the padding not 0", cell("forward", "outputs"), "padding", UNKNOWN,
             planting.implementation(_left_in_padding, "forward"), case="padded"),
    Fault("final state after the padding", cell("forward", "final_state"), "padding",
             "padding is run through like any step",
             planting.implementation(_late_final, "forward"),
             case="padded"),
    Fault("lengths one too long", cell("forward", "outputs"), "padding", UNKNOWN,
             planting.patched(lstm, "validity", lambda real: lambda n, time: real(n + 1, time)),
             case="padded"),
    Fault("attention to padding", "fc.input", "padding", "padding is attended to, on zeros",
             planting.attention(pieces.attend(masked=False)), case="padded"),
    Fault("the query is the batch's last step", "fc.input", "padding",
             "the query is the batch's last step, which is padding in shorter sequences",
             planting.attention(pieces.attend(last=lambda n: 0 * n + n.max() - 1)), case="padded"),
)  # fmt: skip
