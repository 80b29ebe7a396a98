"""Faults in ports written by hand: raw parameters, and a function of a state dict."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from parity.selftest import pieces, planting
from parity.selftest.fault import UNKNOWN, Fault, square
from parity.selftest.networks import by_hand
from parity.selftest.networks.by_hand import Raw

method = planting.method


def function(name: str, change: Callable[[Any], Any]) -> planting.Plant:
    """A function of the port, replaced by the result of the change."""
    return planting.patched(by_hand, name, change)


RAW = (
    Fault("the raw matrix transposed", "matrix", "parameters", "it is transposed", case="raw",
          hold=lambda held: {n: a.T if n == "matrix" else a for n, a in held.items()},
          needs=square("matrix")),
    Fault("the raw matrix transposed in the code", "output", "forward", UNKNOWN,
          method(Raw, "hide", lambda real, model, x: jnp.tanh(x @ model.matrix[...].T)),
          case="raw", needs=square("matrix")),
    Fault("the scalar's sign turned", "scale", "parameters", "its sign is turned", case="raw",
          hold=lambda held: {n: -a if n == "scale" else a for n, a in held.items()}),
    Fault("no tanh before the query", "output", "forward", "the activation is missing",
          method(Raw, "hide", lambda real, model, x: x @ model.matrix[...]), case="raw"),
    Fault("softmax over the features of raw scores", "output", "forward",
          "the softmax runs over the batch",
          method(Raw, "weigh", lambda real, model, s: jax.nn.softmax(s, axis=0)), case="raw"),
    Fault("no softmax over raw scores", "output", "forward", "the softmax is missing",
          method(Raw, "weigh", lambda real, model, s: s), case="raw"),
    Fault("the mean of what is hidden", "output", "forward", UNKNOWN,
          method(Raw, "mix", lambda real, model, w, x: real(w, model.hide(x))), case="raw"),
    Fault("no gradient through raw weights", "scale", "gradients",
          "no gradient flows through the weights",
          method(Raw, "weigh", lambda real, model, s: jax.lax.stop_gradient(real(s))),
          case="raw"),
    Fault("the raw offset added twice", "output", "forward", "offset is added once more",
          method(Raw, "mix", lambda real, model, w, x: real(w, x) + model.offset[...]),
          case="raw"),
    Fault("the first raw product in TF32", "output", "float32", UNKNOWN,
          method(Raw, "hide", lambda real, model, x: jnp.tanh(
              pieces.only_float32(pieces.tf32)(x)
              @ pieces.only_float32(pieces.tf32)(model.matrix[...]))), case="raw"),
)  # fmt: skip

FUNCTION = (
    Fault("function: the forget gate is not applied", "output", "forward", UNKNOWN,
          function("step", lambda real: lambda w, s, h, c, x: (*real(w, s, h, c, x)[:1], c)),
          case="function"),
    Fault("function: the reverse direction runs forward", "output", "forward", UNKNOWN,
          function("direction", lambda real: lambda w, x, s, reverse: real(w, x, s, False)),
          case="function"),
    Fault("function: the head reads the first step", "output", "forward",
          "the first step is read, not the last",
          function("head", lambda real: lambda w, y: real(w, y[::-1])), case="function"),
    Fault("function: the reverse direction's weights are the forward's", "output", "forward",
          UNKNOWN, function("direction", lambda real: lambda w, x, s, reverse: (
              real(w, x, "l0", reverse))), case="function"),
    Fault("function: no gradient through the hidden state", "rnn.bias_hh_l0", "gradients",
          UNKNOWN, function("step", lambda real: lambda w, s, h, c, x: (
              real(w, s, jax.lax.stop_gradient(h), c, x))), case="function"),
    Fault("function: an output of another shape", "output", "forward", "shape",
          function("head", lambda real: lambda w, y: real(w, y)[:2]), case="function"),
    Fault("function: it raises", "the candidate", "forward", "KeyError",
          function("head", lambda real: lambda w, y: w["head.kernel"] @ y[-1]),
          case="function"),
    Fault("function: scores in bfloat16 within float32", "output", "float32",
          "the layer's output is rounded to bfloat16",
          function("head", lambda real: lambda w, y: pieces.only_float32(pieces.bfloat16)(
              real(w, y))), case="function"),
    Fault("an error of 1e-6 beside the −1e9 of a mask", "output.masked", "forward", UNKNOWN,
          function("fill", lambda real: lambda scores, mask: real(scores + 1e-6, mask)),
          case="mask"),
    Fault("no gradient into a parameter that is called as the input is", "x", "gradients",
          "no gradient", function("scaled", lambda real: lambda w, x: (
              real(jax.lax.stop_gradient(w), x))), case="mask"),
    Fault("the spectrum's conjugate", "output", "forward", UNKNOWN,
          function("fourier", lambda real: lambda x: jnp.conj(real(x))), case="spectrum"),
)  # fmt: skip
