"""Faults within one step of the recurrence."""

import jax
import jax.numpy as jnp

from flax_bilstm.recurrence.equations import State
from parity.selftest import pieces, planting
from parity.selftest.fault import UNKNOWN, Fault, cell

CELL = (
    Fault("input and forget gates exchanged, reverse only", cell("reverse", "input_gate"),
             "one direction", "input and forget gates are exchanged",
             planting.weights(pieces.gate_order((1, 0, 2, 3)), "reverse")),
    Fault("cell and output gates exchanged (Flax's own order)", cell("forward", "cell_gate"),
             "forward", "cell and output gates are exchanged",
             planting.weights(pieces.gate_order((0, 1, 3, 2)))),
    Fault("gates taken as i, o, f, g", cell("forward", "forget_gate"), "forward",
             "order i, o, f, g", planting.weights(pieces.gate_order((0, 3, 1, 2)))),
    Fault("hidden-to-hidden blocks transposed in the code", cell("forward", "step"),
             "forward", "transposed", planting.weights(pieces.turned_blocks)),
    Fault("bias_hh missing", cell("forward", "step"), "forward", "bias_hh is missing",
             planting.weights(pieces.multiplied("bias_hh", 0))),
    Fault("bias_ih added twice, forward only", cell("forward", "step"), "one direction",
             "bias_ih is added twice",
             planting.weights(pieces.multiplied("bias_ih", 2), "forward")),
    Fault("forget gate's bias plus 1 (Keras, Flax)", cell("forward", "forget_gate"), "forward",
             "1 is added", planting.loop(pieces.cell(forget=lambda f: jax.nn.sigmoid(f + 1)))),
    Fault("hard sigmoid", cell("forward", "input_gate"), "forward", "hard",
             planting.loop(pieces.cell(sigmoid=pieces.hard))),
    Fault("sigmoid for the cell gate's tanh", cell("reverse", "cell_gate"), "one direction",
             "sigmoid for tanh",
             planting.loop(pieces.cell(candidate=jax.nn.sigmoid), "reverse")),
    Fault("no tanh on the new cell state", cell("forward", "hidden"), "forward",
             "tanh on the new cell state is missing",
             planting.loop(pieces.cell(squash=lambda c: c))),
    Fault("the output reads the old cell state", cell("forward", "hidden"), "forward",
             "old cell state", planting.loop(pieces.cell(shown=lambda new, old: old))),
    Fault("coupled gates: input = 1 − forget", cell("forward", "input_gate"), "forward",
             "1 − the forget gate",
             planting.loop(pieces.cell(combine=lambda i, f, g, c: f * c + (1 - f) * g))),
    Fault("h and c exchanged", cell("forward", "step"), "forward", "h and c are exchanged",
             planting.loop(pieces.cell(enter=lambda s: State(s.cell, s.hidden)))),
    Fault("the cell state kept in float32", cell("forward", "cell"), "forward", "float32",
             planting.loop(pieces.cell(combine=lambda i, f, g, c: (f * c + i * g)
                                   .astype(jnp.float32).astype(c.dtype)))),
    Fault("x / (1 + |x|) for the cell gate's tanh", cell("forward", "cell_gate"), "forward",
             "x / (1 + |x|)", planting.loop(pieces.cell(candidate=jax.nn.soft_sign))),
    Fault("GELU by tanh for the cell gate's tanh", cell("forward", "cell_gate"), "forward", "GELU",
             planting.loop(pieces.cell(candidate=jax.nn.gelu))),
    Fault("exact GELU for the cell gate's tanh", cell("forward", "cell_gate"), "forward", "GELU",
             planting.loop(pieces.cell(candidate=lambda g: jax.nn.gelu(g, approximate=False)))),
    Fault("a Padé fraction for the cell gate's tanh", cell("forward", "cell_gate"), "forward",
             UNKNOWN, planting.loop(pieces.cell(candidate=pieces.pade))),
    Fault("sine for the cell gate's tanh", cell("forward", "cell_gate"), "forward", UNKNOWN,
             planting.loop(pieces.cell(candidate=jnp.sin))),
    Fault("zoneout of 0.1 on the cell state", cell("forward", "cell"), "forward", UNKNOWN,
             planting.loop(pieces.cell(
                 combine=lambda i, f, g, c: 0.9 * (f * c + i * g) + 0.1 * c))),
    Fault("LayerNorm within the tanh on the new cell state", cell("forward", "hidden"), "forward",
             UNKNOWN, planting.loop(pieces.cell(squash=pieces.tanh_of_norm))),
    # If the cell state is 0, as in the probes of gates, the gate is right, but the new cell is not.
    Fault("a peephole: the input gate reads the cell state", cell("forward", "cell"), "forward",
             UNKNOWN, planting.loop(pieces.peephole)),
    Fault("the cell state clipped to ±0.3", cell("forward", "cell"), "forward", UNKNOWN,
             planting.loop(pieces.cell(
                 combine=lambda i, f, g, c: jnp.clip(f * c + i * g, -0.3, 0.3)))),
    Fault("an error of 1e-9 per step, growing", cell("forward", "cell"), "forward", "times",
             planting.loop(pieces.cell(combine=lambda i, f, g, c: (f * c + i * g) * (1 + 1e-9)))),
)  # fmt: skip
