"""Faults in the attention and in the head."""

import jax
import jax.numpy as jnp
from flax import nnx

from flax_bilstm import network
from parity.selftest import pieces, planting
from parity.selftest.fault import UNKNOWN, Fault, square
from parity.selftest.networks.ours import HIDDEN_DIM

AFTER = (
    Fault("softmax over the queries", "fc.input", "forward",
             "the softmax runs over the queries, not over the keys",
             planting.attention(pieces.over_queries)),
    Fault("scores divided by √d", "fc.input", "forward",
             "scores are 1/√d of what they should be, d the features of the product",
             planting.attention(pieces.attend(scores=lambda s: s / (2 * HIDDEN_DIM) ** 0.5))),
    Fault("the query is the first step", "fc.input", "forward",
             "the first step is read, not the last",
             planting.attention(pieces.attend(query=0))),
    Fault("the last step does not attend to itself", "fc.input", "forward",
             "no step attends to itself",
             planting.attention(pieces.attend(scores=lambda s: s.at[:, -1].set(-jnp.inf)))),
    Fault("the attention's Linear applied", "fc.input", "forward",
             "attention.attn is applied to the keys, though the reference does not",
             planting.calling(network.Attention, lambda call, module, y, **options: (
                 pieces.attend(scores=lambda s: jnp.einsum(
                     "bf,btf->bt", y[:, -1],
                     y @ module.attn.kernel[...] + module.attn.bias[...][None, None],
                 ))(None, y, None)
             ))),
    Fault("sigmoids for the softmax", "fc.input", "forward",
             "the weights are sigmoids, not a softmax",
             planting.attention(pieces.attend(weigh=jax.nn.sigmoid))),
    Fault("context of values one step late", "fc.input", "forward", UNKNOWN,
             planting.attention(pieces.attend(values=lambda y: jnp.roll(y, 1, axis=1)))),
    Fault("head reads the first step", "fc.input", "forward",
             "the first step is read, not the last",
             planting.head(lambda y, everything: everything[:, 0])),
    Fault("head reads the mean of all steps", "fc.input", "forward",
             "the mean of all steps is read, not the last",
             planting.head(lambda y, everything: everything.mean(axis=1))),
    Fault("head reads the LSTM, not the attention", "fc.input", "forward",
             "last step of lstm.output",
             planting.head(lambda y, everything: y[:, -1])),
    Fault("head's bias missing", "output", "forward", "fc.bias is missing",
             planting.calling(network.BiLSTMWithAttention, lambda call, model, x, **options: (
                 call(x, **options) - model.fc.bias[...][None]))),
    Fault("head's square weight transposed in the code", "fc", "forward",
             "the weight is transposed", needs=square("fc.weight"), plant=
             planting.calling(nnx.Linear, lambda call, module, x: (
                 x @ module.kernel[...].T + module.bias[...][None]))),
)  # fmt: skip
