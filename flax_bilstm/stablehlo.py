"""A model as one file that JAX alone runs: StableHLO with the weights inside, by `jax.export`.

https://docs.jax.dev/en/latest/export/export.html
"""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from flax import nnx

from flax_bilstm.conversion.reading import Module
from flax_bilstm.lstm import LSTM

PLATFORMS = ("cpu", "cuda", "tpu")


def export(model: Module) -> jax.export.Exported:
    """`model` in evaluation mode as a function of x alone, for any batch and time of at least 1.

    One artifact runs on CPUs, NVIDIA GPUs and TPUs, without flax_bilstm or Flax:

        path.write_bytes(export(model).serialize())                       # needs flatbuffers
        y = jax.export.deserialize(bytearray(path.read_bytes())).call(x)  # needs flatbuffers too

    x has the model's layout, (batch, time, features) or time-major, and its parameters' dtype; y is
    what the model returns, and the weights are constants. The recurrence is the plain scan, the
    only one that takes a batch and a time yet unknown. Products have the precision of
    `jax.default_matmul_precision` at the time of the export. Older versions of JAX than
    the exporting one may refuse it; newer ones, by six months or less, do not.

    Raises:
        TypeError: `model` is no LSTM or BiLSTMWithAttention.
    """
    if not isinstance(model, Module):
        raise TypeError(f"model: expected LSTM or BiLSTMWithAttention, got {type(model).__name__}.")
    frozen = plain(model)
    lstm = frozen if isinstance(frozen, LSTM) else frozen.lstm
    batch, time = jax.export.symbolic_shape("batch, time")
    leading = (time, batch) if lstm.time_major else (batch, time)
    x = jax.ShapeDtypeStruct((*leading, lstm.input_size), lstm.layers[0].forward.kernel_ih.dtype)
    with _without_source_locations():
        return jax.export.export(jax.jit(lambda x: frozen(x)), platforms=PLATFORMS)(x)


@contextlib.contextmanager
def _without_source_locations() -> Iterator[None]:
    """Keep the paths of this machine's files out of what is lowered."""
    option = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, option)
    jax.config.update(option, 0)
    try:
        yield
    finally:
        jax.config.update(option, before)


def serialize(exported: jax.export.Exported) -> bytes:
    """The artifact's bytes.

    Raises:
        ImportError: flatbuffers is not installed.
    """
    try:
        return bytes(exported.serialize())
    except ImportError as error:
        raise ImportError(
            "jax.export writes and reads its artifacts with flatbuffers, which is not installed; "
            "run pip install 'flax-bilstm[export]'."
        ) from error


def plain(model: Module) -> Module:
    """A copy of `model` for evaluation, its recurrence the plain scan."""
    copy = nnx.clone(model)
    copy.eval()
    (copy if isinstance(copy, LSTM) else copy.lstm).implementation = "scan"
    return copy


def largest_difference(model: Module, artifact: bytes) -> float:
    """Between the artifact and the model it was made from: the largest |a − b| / max(1, |b|).

    Both run here, on standard normal sequences of several batch sizes and lengths.
    """
    loaded = jax.export.deserialize(bytearray(artifact))
    features, dtype = loaded.in_avals[0].shape[-1], loaded.in_avals[0].dtype
    reference = plain(model)
    worst = 0.0
    for leading in ((1, 1), (3, 5)):
        x = np.random.default_rng(0).standard_normal((*leading, features)).astype(dtype)
        outputs = zip(jax.tree.leaves(loaded.call(x)), jax.tree.leaves(reference(x)), strict=True)
        for got, expected in outputs:
            a, b = np.asarray(got, np.float64), np.asarray(expected, np.float64)
            gap = np.abs(a - b) / np.maximum(1.0, np.abs(b))
            worst = float(np.max([worst, gap.max()]))  # NaN stays NaN
    return worst
