"""Faults in networks that read tokens: a tagger, a classifier and a language model."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from flax_bilstm import LSTM
from parity.selftest import pieces, planting
from parity.selftest.fault import UNKNOWN, Fault, Needs, square
from parity.selftest.faults.in_training import fed
from parity.selftest.networks.text import (
    FEATURES,
    HIDDEN,
    VOCABULARY,
    Classifier,
    LanguageModel,
    Tagger,
)  # fmt: skip
from parity.sides.optimizers import ADAM, ADAMW

method = planting.method


_TF32 = pieces.only_float32(pieces.tf32)


def _layer(number: int, change: Callable[[Any], Any]) -> planting.Plant:
    """The weights of one layer changed in both directions."""
    width = (FEATURES, 2 * HIDDEN)[number]  # of what the layer reads
    return planting.weights(lambda w: change(w) if w.kernel_ih.shape[0] == width else w)


def _norm(change: Callable[..., Any]) -> planting.Plant:
    """`change(x, scale, bias)` in place of LayerNorm."""
    return planting.calling(nnx.LayerNorm, lambda call, module, x: change(
        x, module.scale[...][None, None], module.bias[...][None, None]))  # fmt: skip


def _standard(x: Any, eps: float = 1e-5, freedom: int = 0) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).sum(-1, keepdims=True) / (x.shape[-1] - freedom)
    return centred / jnp.sqrt(variance + eps)


TAGGER = (
    Fault("directions exchanged in the second layer", "encoder.weight_ih_l1", "parameters",
          "holds encoder.weight_ih_l1_reverse", case="tagger", hold=lambda held: {
              n: held[n.removesuffix("_reverse") if n.endswith("_reverse") else f"{n}_reverse"]
              if "_l1" in n else a for n, a in held.items()}),
    Fault("layers' weight_hh exchanged", "encoder.weight_hh_l0", "parameters",
          "holds encoder.weight_hh_l1", case="tagger", hold=lambda held: {
              n: held[n.replace("_l0", "_l#").replace("_l1", "_l0").replace("_l#", "_l1")]
              if "weight_hh" in n else a for n, a in held.items()}),
    Fault("gates exchanged in the second layer", "encoder.layer1.forward.input_gate", "forward",
          "input and forget gates are exchanged",
          _layer(1, pieces.gate_order((1, 0, 2, 3))), case="tagger"),
    Fault("bias_hh missing in the first layer", "encoder.layer0.forward.step", "forward",
          "bias_hh is missing", _layer(0, pieces.multiplied("bias_hh", 0)), case="tagger"),
    Fault("weight_hh gets no gradient in the second layer", "encoder.layer1.reverse.step",
          "gradients", "weight_hh gets no gradient", _layer(1, pieces.stopped("kernel_hh")),
          case="tagger"),
    Fault("halves of the tagger's output swapped", "encoder.layer1.output", "forward",
          "the forward and reverse halves are swapped", planting.lstm_results(lambda y, h, c: (
              jnp.concatenate([y[..., HIDDEN:], y[..., :HIDDEN]], -1), h, c)), case="tagger"),
    Fault("embedding times √d", "encoder.input", "forward",
          f"it is {FEATURES**0.5:g} times what it should be",
          method(Tagger, "embed", lambda real, model, x: real(x) * FEATURES**0.5), case="tagger"),
    Fault("tokens one too high", "embedding.input", "forward",
          "whole numbers and booleans must be equal", method(
          Tagger, "embed", lambda real, model, x: model.embedding((x + 1) % VOCABULARY)),
          case="tagger"),
    Fault("the first token's embedding is zero (padding_idx)", "embedding", "forward", UNKNOWN,
          planting.calling(nnx.Embed, lambda call, module, x: (
              call(x) * (x != 0)[..., None].astype(jnp.float32))), case="tagger"),
    Fault("scores read the LSTM's outputs in reverse order", "tags.input", "forward",
          "its second axis is in reverse order",
          method(Tagger, "read", lambda real, model, y: y[:, ::-1]),
          case="tagger"),
    Fault("tanh before the scores", "tags.input", "forward", UNKNOWN,
          method(Tagger, "read", lambda real, model, y: jnp.tanh(y)), case="tagger"),
    Fault("no gradient into the LSTM", "encoder.output", "gradients", "no gradient",
          method(Tagger, "read", lambda real, model, y: jax.lax.stop_gradient(y)),
          case="tagger"),
    Fault("the embedding is frozen", "embedding", "gradients", "no gradient",
          method(Tagger, "embed", lambda real, model, x: jax.lax.stop_gradient(real(x))),
          case="tagger"),
    Fault("the tagger's square head transposed in the code", "tags", "forward",
          "the weight is transposed",
          planting.calling(nnx.Linear, lambda call, module, x: (
              x @ module.kernel[...].T + module.bias[...][None, None])), case="tagger",
          needs=square("tags.weight")),
    Fault("the tagger's LSTM in bfloat16 within float32", "encoder.layer0.forward.input_gate",
          "float32",
          "the matrix products are computed in bfloat16",
          planting.product(pieces.only_float32(pieces.bfloat16)),
          case="tagger"),
    Fault("AdamW without decay in the tagger", "embedding.weight", "training",
          "there is no weight decay", case="tagger",
          optimizer=fed(ADAMW, optax.adamw(1e-3, weight_decay=0))),
)  # fmt: skip

CLASSIFIER = (
    Fault("LayerNorm's epsilon of 1e-6, Flax's default", "norm", "forward",
          "the epsilon is 1e-06, Flax's default",
          _norm(lambda x, scale, bias: _standard(x, 1e-6) * scale + bias), case="classifier"),
    Fault("LayerNorm's epsilon of 1e-12, BERT's", "norm", "forward", "the epsilon is 1e-12, BERT's",
          _norm(lambda x, scale, bias: _standard(x, 1e-12) * scale + bias), case="classifier"),
    Fault("LayerNorm by the sample's variance", "norm", "forward", UNKNOWN,
          _norm(lambda x, scale, bias: _standard(x, freedom=1) * scale + bias),
          case="classifier"),
    Fault("LayerNorm does not centre (RMSNorm)", "norm", "forward", UNKNOWN,
          _norm(lambda x, scale, bias: (
              x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * scale + bias)),
          case="classifier"),
    Fault("LayerNorm over time", "norm", "forward", UNKNOWN,
          _norm(lambda x, scale, bias: (
              _standard(x.swapaxes(1, 2)).swapaxes(1, 2) * scale + bias)), case="classifier"),
    Fault("no gradient through LayerNorm's mean", "norm", "gradients", UNKNOWN,
          planting.calling(nnx.LayerNorm, lambda call, module, x: (
              call(x - x.mean(-1, keepdims=True)
                   + jax.lax.stop_gradient(x.mean(-1, keepdims=True))) * 1.0
              + 0.1 * (x - jax.lax.stop_gradient(x)))), case="classifier"),
    Fault("GELU by tanh, JAX's default", "head.input", "forward",
          "the activation is gelu (by tanh, JAX's default)",
          method(Classifier, "activate", lambda real, model, z: nnx.gelu(z)), case="classifier"),
    Fault("ReLU for GELU", "head.input", "forward", "the activation is relu",
          method(Classifier, "activate", lambda real, model, z: nnx.relu(z)), case="classifier"),
    Fault("SiLU for GELU", "head.input", "forward", "the activation is silu",
          method(Classifier, "activate", lambda real, model, z: nnx.silu(z)), case="classifier"),
    Fault("no activation", "head.input", "forward", "the activation is missing",
          method(Classifier, "activate", lambda real, model, z: z), case="classifier"),
    Fault("no residual", "head.input", "forward", "the first term of a sum is missing",
          method(Classifier, "join", lambda real, model, y, z: z), case="classifier"),
    Fault("the residual's gradient stopped", "norm", "gradients", UNKNOWN,
          method(Classifier, "join", lambda real, model, y, z: jax.lax.stop_gradient(y) + z),
          case="classifier"),
    Fault("the sum over time for the mean", "head.input", "forward",
          "the mean over an axis is a sum",
          method(Classifier, "pool", lambda real, model, y: y.sum(1)), case="classifier"),
    Fault("the largest over time for the mean", "head.input", "forward",
          "the mean over an axis is the largest",
          method(Classifier, "pool", lambda real, model, y: y.max(1)), case="classifier"),
    Fault("the last step for the mean", "head.input", "forward",
          "the mean over an axis is its last step",
          method(Classifier, "pool", lambda real, model, y: y[:, -1]), case="classifier"),
    Fault("the mean over features, not time", "head.input", "forward", UNKNOWN,
          method(Classifier, "pool", lambda real, model, y: y.mean(2)), case="classifier",
          needs=Needs("as many features as time steps",
                      lambda batch, held: batch["x"].shape[1] == len(held["norm.weight"]))),
    Fault("the classifier's head in TF32", "hidden", "float32",
          "the layer's products are computed in TF32, or float16",
          planting.calling(nnx.Linear, lambda call, module, x: (
              _TF32(x) @ _TF32(module.kernel[...]) + module.bias[...])), case="classifier"),
    Fault("beta 1 of 0 in the classifier", "embedding.weight.exp_avg", "training", "beta 1 is 0",
          case="classifier", optimizer=fed(ADAM, optax.adam(1e-3, b1=0.0))),
)  # fmt: skip

LANGUAGE_MODEL = (
    Fault("the head is not tied in gradients", "decoder.weight", "gradients",
          "no gradient flows into the layer's weight",
          method(LanguageModel, "decode", lambda real, model, y: (
              y @ jax.lax.stop_gradient(model.embed.embedding[...]).T + model.bias[...])),
          case="language model"),
    Fault("the decoder's bias is missing", "output", "forward", "the bias is missing",
          method(LanguageModel, "decode", lambda real, model, y: (
              y @ model.embed.embedding[...].T)), case="language model"),
    Fault("probabilities for their logarithms", "output", "forward",
          "the logarithm of the softmax is missing: it is a softmax",
          method(LanguageModel, "normalize", lambda real, model, scores: nnx.softmax(scores)),
          case="language model"),
    Fault("no log_softmax", "output", "forward", "the log_softmax is missing",
          method(LanguageModel, "normalize", lambda real, model, scores: scores),
          case="language model"),
    Fault("log_softmax over time", "output", "forward", UNKNOWN,
          method(LanguageModel, "normalize", lambda real, model, scores: (
              nnx.log_softmax(scores, axis=1))), case="language model"),
    Fault("forget gate's bias plus 1 in the language model", "rnn.layer0.forward.forget_gate",
          "forward", "1 is added to the forget gate's bias",
          planting.loop(pieces.cell(forget=lambda f: jax.nn.sigmoid(f + 1))),
          case="language model"),
    Fault("the language model reads x from last to first", "rnn.layer0.forward.outputs",
          "forward", "the sequence is run from the last step to the first",
          planting.implementation(lambda real, *given: real(*given[:-1], True)),
          case="language model"),
    Fault("the state of the language model starts at 0.1", "rnn.layer0.forward.outputs",
          "forward", UNKNOWN, planting.calling(LSTM, lambda call, module, x, **options: call(
              x, **{**options, "initial_state": (jnp.full((1, len(x), 4), 0.1, x.dtype),) * 2})),
          case="language model"),
)  # fmt: skip
