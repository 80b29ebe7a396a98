"""Faults in the model's parameters, as conversions make them."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from parity.selftest.fault import Fault, Held, square


def changed(change: Callable[[np.ndarray], np.ndarray], *fragments: str) -> Callable[[Held], Held]:
    """Changes the parameters whose name contains one of the fragments."""
    return lambda held: {
        n: change(a) if any(f in n for f in fragments) else a for n, a in held.items()
    }


def blocks(order: Sequence[int]) -> Callable[[np.ndarray], np.ndarray]:
    """A torch tensor's gate blocks in another order."""
    return lambda array: np.concatenate([np.split(array, 4)[i] for i in order])


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
    Fault("gates in another order (i, o, f, g: ONNX) in all tensors", "lstm.weight_ih_l0",
             "parameters",
             "gates are taken in the order i, o, f, g, not i, f, g, o",
             hold=changed(blocks((0, 3, 1, 2)), "lstm.")),
    Fault("gates of one tensor in Keras's order of another release",
             "lstm.weight_hh_l0_reverse", "parameters", "forget and cell gates are exchanged",
             hold=changed(blocks((0, 2, 1, 3)), "weight_hh_l0_reverse")),
    Fault("hidden-to-hidden blocks transposed", "lstm.weight_hh_l0", "parameters",
             "each gate's block is transposed",
             hold=changed(lambda a: np.concatenate([b.T for b in np.split(a, 4)]),
                                "weight_hh")),
    Fault("biases folded into one", "lstm.bias_ih_l0", "parameters",
             "it holds the sum of both biases: bias_hh is folded into it", hold=_folded),
    Fault("directions exchanged", "lstm.weight_ih_l0", "parameters",
             "holds lstm.weight_ih_l0_reverse", hold=_directions_exchanged),
    Fault("square head transposed", "fc.weight", "parameters", "it is transposed",
             hold=changed(lambda a: a.T, "fc.weight"), needs=square("fc.weight")),
    Fault("checkpoint rounded to bfloat16", "lstm.weight_ih_l0", "parameters",
             "it was rounded to bfloat16",
             hold=lambda held: {n: np.asarray(jnp.asarray(a, jnp.bfloat16)).astype(a.dtype)
                                for n, a in held.items()}),
    Fault("the attention's unused Linear drawn anew", "attention.attn.weight", "parameters",
             "hold different values",
             hold=changed(lambda a: np.random.default_rng(1).uniform(-1, 1, a.shape)
                                .astype(a.dtype), "attn.weight")),
    Fault("a NaN in the head's bias", "fc.bias", "not finite",
             "non-finite", hold=changed(_nan_at_first, "fc.bias")),
)  # fmt: skip
