"""What a conversion must satisfy: the same tensors, bit for bit, and the same forward pass.

Forward passes are compared in float64, to which every weight is cast exactly: there a right
conversion agrees up to rounding and a wrong one does not.
"""

import gc
import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float64

from flax_bilstm.checkpoints.mapped import forget
from flax_bilstm.cli.parts import parts
from flax_bilstm.cli.torch_forward import torch_forward
from flax_bilstm.conversion.reading import read_sizes
from flax_bilstm.conversion.transforms import identical
from flax_bilstm.conversion.weights import from_state_dict
from flax_bilstm.lstm import LSTM

BATCH, TIME, SEED = 4, 16, 0
TOLERANCE = 1e-12
"""Bound for |JAX − PyTorch| in float64, times the largest output if that is above 1.

Measured differences at the published size are below 1e-16.
"""

LARGE, LETTING_GO = 2**23, 0.05
"""Seconds that XLA's threads are given, from so many bytes on, to let go of what was computed with.

They do so a moment after the results are there.
"""


class DifferenceError(Exception):
    """The written checkpoint does not give what was read."""


class Verification(NamedTuple):
    """The result of the comparison. Differences are the largest absolute ones of any output.

    `overflows`: finite weights give sums that overflow float64. Then NaN occurs, at places that
    depend on the order of summation, and PyTorch's forward pass says nothing about the conversion.
    """

    differing: tuple[str, ...]
    from_source: float
    from_torch: float | None
    tolerance: float
    forward_pass: str
    overflows: bool = False

    @property
    def passed(self) -> bool:
        """Whether no bit was lost, and PyTorch, if it is installed, computes the same."""
        agrees = self.from_torch is None or self.overflows or self.from_torch <= self.tolerance
        return agrees and not self.differing


Read = Callable[[], Mapping[str, np.ndarray]]
"""Reads the tensors of a checkpoint. Called for each use, so that none stay in memory."""


def verify(source: Read, back: Read, changed: tuple[str, ...], score: str = "dot") -> Verification:
    """Compare the forward pass of `back`, a new file, with that of its `source`.

    `changed` are the tensors that differ from what was written.

    `score` is the reference network's, which cannot be seen in the tensors.

    Raises:
        ValueError: `back` is not a state dict that fits a model.
    """
    tensors = back()
    x, words = example(tensors), forward_pass(tensors, score)
    del tensors
    has_torch = importlib.util.find_spec("torch") is not None
    outputs = forward(back(), x, score)
    of_source = forward(source(), x, score)
    expected = torch_forward(back(), x, score) if has_torch else outputs  # leaves buffers behind
    return Verification(
        differing=changed,
        from_source=_largest(outputs, of_source),
        from_torch=_largest(outputs, expected) if has_torch else None,
        tolerance=TOLERANCE * max(1.0, float(np.abs(outputs).max())),
        forward_pass=words,
        overflows=not (np.isfinite(outputs).all() and np.isfinite(expected).all()),
    )


def forward_pass(arrays: Mapping[str, np.ndarray], score: str) -> str:
    """What is computed from these tensors, in words: an assumption, not determined by the names."""
    kind, _ = read_sizes(arrays)
    if kind is LSTM:
        return "nn.LSTM in evaluation mode"
    scored = {"dot": "y · y", "general": "y · W y, W = attention.attn.weight"}[score]
    return (
        f"bidirectional LSTM, attention of the last step with score={score} ({scored}), fc; "
        "a checkpoint does not store the score; pass it by --score"
    )


def score_option(arrays: Mapping[str, np.ndarray], score: str) -> dict[str, Any]:
    """The option of the model that its tensors do not determine, if it has it."""
    kind, _ = read_sizes(arrays)
    return {} if kind is LSTM else {"score": score}


def differing(a: Mapping[Any, np.ndarray], b: Mapping[Any, np.ndarray]) -> tuple[str, ...]:
    """The names of tensors that differ between the two sides in any bit."""
    changed = []
    for name in {**a, **b}:
        if name not in a or name not in b or not identical(a[name], b[name]):
            changed.append(str(name))
        for side in (a, b):
            if name in side:
                forget({name: side[name]})
    return tuple(changed)


def example(arrays: Mapping[str, np.ndarray]) -> Float64[np.ndarray, "batch time features"]:
    """An input for the model that the state dict describes: standard normal, always the same."""
    _, sizes = read_sizes(arrays)
    features = sizes.get("input_dim") or sizes["input_size"]
    return np.random.default_rng(SEED).standard_normal((BATCH, TIME, features))


def forward(
    arrays: Mapping[str, np.ndarray],
    x: Float64[np.ndarray, "batch time features"],
    score: str = "dot",
) -> Float64[np.ndarray, "batch ..."]:
    """What the Flax model computes from x with these weights, in float64 on the CPU.

    The weights of one layer are in memory at a time. `scan` reads them where they are; the default
    would pack those of one direction for its threads, a further copy.
    """
    cpu = jax.devices("cpu")[0]
    options = score_option(arrays, score) | {"implementation": "scan"}
    remaining = parts(arrays)
    del arrays
    with jax.enable_x64(True), jax.default_device(cpu), jax.default_matmul_precision("highest"):
        for part in remaining:
            model = from_state_dict(part, param_dtype=jnp.float64, **options)
            forget(part)
            part.clear()
            graph, state = nnx.split(model)
            x = np.asarray(_apply(graph, state, x))
            _delete(jax.tree.leaves(state))
    return x


def _delete(arrays: Sequence[Array]) -> None:
    """Delete a module's arrays, since the module itself stays for a while, in reference cycles."""
    large = sum(array.nbytes for array in arrays) >= LARGE
    for array in arrays:
        array.delete()
    if large:
        time.sleep(LETTING_GO)
    gc.collect(0)  # JAX gives deleted memory back when Python collects


@partial(jax.jit, static_argnums=0)  # one compilation for equal layers and both sides
def _apply(graph: nnx.GraphDef, state: nnx.State, x: ArrayLike) -> Array:
    outputs = nnx.merge(graph, state)(x)
    return outputs[0] if isinstance(outputs, tuple) else outputs


def _largest(a: np.ndarray, b: np.ndarray) -> float:
    """The largest absolute difference; NaN, which is within no bound, if there is one.

    Values that are equal differ by 0, including infinite values and NaN on both sides.
    """
    with np.errstate(invalid="ignore"):
        gaps = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    return float(gaps.max())
