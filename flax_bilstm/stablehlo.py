"""A model as one file that JAX alone can run: StableHLO with the weights inside, by `jax.export`.

https://docs.jax.dev/en/latest/export/export.html
"""

import contextlib
import gc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array

from flax_bilstm import arguments
from flax_bilstm.checkpoints.mapped import mapped
from flax_bilstm.lstm import LSTM
from flax_bilstm.network import BiLSTMWithAttention

PLATFORMS = ("cpu", "cuda", "tpu")


Input = jax.ShapeDtypeStruct | tuple[str, DTypeLike]
"""A shape and dtype; in ("batch, time, 8", "float32") the names are sizes that are left open."""


PADDED = {"lengths": ("batch", "int32"), "mask": ("batch, time", "bool")}
"""What the artifact of a padded batch takes after x."""


def export(
    model: nnx.Module, *inputs: Input, lengths: bool = False, mask: bool = False
) -> jax.export.Exported:
    """`model` in evaluation mode as a function of its inputs, with the weights inside.

    One artifact runs on CPUs, NVIDIA GPUs and TPUs, without flax_bilstm or Flax:

        path.write_bytes(export(model).serialize())                       # needs flatbuffers
        y = jax.export.deserialize(bytearray(path.read_bytes())).call(x)  # needs flatbuffers too

        export(tagger, ("batch, time", "int32"))                          # a module of your own

    The recurrence is the plain scan, which runs on every platform. Products have the precision that
    `jax.default_matmul_precision` has during the export. Versions of JAX older than the exporting
    one may refuse the artifact; versions newer by up to six months run it.

    Args:
        model: any module; every `LSTM` in it is run by the plain scan.
        *inputs: the inputs of the call, each a `jax.ShapeDtypeStruct` or a pair of a shape as text
            and a dtype. Optional for `LSTM` and `BiLSTMWithAttention`: then the input is x,
            for any batch and time of at least 1, in the model's layout and its parameters' dtype.
        lengths: for an `LSTM` or a `BiLSTMWithAttention` without inputs: whether the artifact takes
            lengths, (batch,) int32, after x.
        mask: instead of lengths, the same for a mask, (batch, time) bool.

    Raises:
        TypeError: any other module without inputs, or an argument of another type.
        ValueError: both lengths and mask, or a shape or dtype that is none.
    """
    arguments.module("model", model)
    arguments.flag("lengths", lengths)
    arguments.flag("mask", mask)
    names = [name for name, taken in {"lengths": lengths, "mask": mask}.items() if taken]
    if len(names) > 1:
        raise ValueError("mask: expected False beside lengths=True, got True; ask for one of them.")
    frozen = plain(model)
    if not inputs:
        inputs = (_own_input(frozen), *(PADDED[name] for name in names))
    scope = jax.export.SymbolicScope()
    shapes = [_shape(each, scope) for each in inputs]

    def call(*arrays: Any) -> Any:
        module = nnx.clone(frozen)  # belongs to this trace; nnx.scan in a model needs it
        count = len(arrays) - len(names)
        return module(*arrays[:count], **dict(zip(names, arrays[count:], strict=True)))

    with _without_source_locations():
        return jax.export.export(jax.jit(call), platforms=PLATFORMS)(*shapes)


def _own_input(model: nnx.Module) -> Input:
    """x, for one of this library's modules."""
    if not isinstance(model, (LSTM, BiLSTMWithAttention)):
        raise TypeError(
            "model: expected LSTM or BiLSTMWithAttention where no inputs are described, got "
            f"{type(model).__name__}; describe them, for instance ('batch, time, 8', 'float32')."
        )
    lstm = model if isinstance(model, LSTM) else model.lstm
    leading = "time, batch" if lstm.time_major else "batch, time"
    return f"{leading}, {lstm.input_size}", lstm.layers[0].forward.kernel_ih.dtype


def _shape(each: Input, scope: Any) -> jax.ShapeDtypeStruct:
    if isinstance(each, jax.ShapeDtypeStruct):
        return each
    words = "a jax.ShapeDtypeStruct or a pair such as ('batch, time, 8', 'float32')"
    if not (isinstance(each, (tuple, list)) and len(each) == 2 and isinstance(each[0], str)):
        raise TypeError(f"inputs: expected {words} for each, got {arguments.quoted(each)}.")
    shape, dtype = each
    try:
        sizes = jax.export.symbolic_shape(shape, scope=scope)
        return jax.ShapeDtypeStruct(sizes, jnp.dtype(dtype))
    except Exception as error:  # from JAX
        raise ValueError(f"inputs: expected {words}, got {shape!r}: {error}") from error


@contextlib.contextmanager
def _without_source_locations() -> Iterator[None]:
    """Keep the paths of this machine's files out of the lowered program."""
    option = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, option)
    jax.config.update(option, 0)
    try:
        yield
    finally:
        jax.config.update(option, before)


def serialize(exported: jax.export.Exported) -> bytearray:
    """The artifact's bytes.

    Raises:
        ImportError: flatbuffers is not installed.
    """
    try:
        return exported.serialize()
    except ImportError as error:
        raise ImportError(
            "jax.export writes and reads its artifacts with flatbuffers, which is not installed; "
            "run pip install 'flax-bilstm[export]'."
        ) from error


def plain(model: nnx.Module) -> Any:
    """A copy of `model` for evaluation, in which every LSTM runs the plain scan."""
    copy = nnx.clone(model)
    copy.eval()
    for _, module in nnx.iter_modules(copy):
        if isinstance(module, LSTM):
            module.implementation = "scan"
    return copy


class Example(NamedTuple):
    """Inputs of a model, and what it computes from them."""

    inputs: tuple[np.ndarray, ...]
    outputs: list[np.ndarray]


def examples(model: LSTM | BiLSTMWithAttention, padded: str | None = None) -> list[Example]:
    """What this library's model computes, for several batch sizes and lengths.

    x is standard normal; `padded` is what the artifact takes after it: "lengths", "mask" or None.
    """
    reference = plain(model)
    lstm = reference if isinstance(reference, LSTM) else reference.lstm
    dtype = lstm.layers[0].forward.kernel_ih.dtype
    rng, made = np.random.default_rng(0), []
    for leading in ((1, 1), (3, 5)):
        x = rng.standard_normal((*leading, lstm.input_size)).astype(dtype)
        time, batch = leading if lstm.time_major else leading[::-1]
        lengths = rng.integers(1, time + 1, batch, np.int32)
        mask = np.arange(time) >= time - lengths[:, None]  # padding at the beginning
        given = {"lengths": lengths, "mask": mask}
        given = {} if padded is None else {padded: given[padded]}
        outputs = jax.tree.map(np.asarray, jax.tree.leaves(reference(x, **given)))
        made.append(Example((x, *given.values()), outputs))
    return made


def largest_difference(artifact: Path, expected: Sequence[Example]) -> float:
    """The largest |a − b| / max(1, |b|) of any output between the artifact and the examples.

    XLA compiles the weights with the program, for which it needs several times their memory; so all
    else is given back first, JAX's caches too.
    """
    worst = 0.0
    for inputs, outputs in expected:
        drop_caches()
        for got, want in zip(_run(artifact, inputs), outputs, strict=True):
            a, b = np.asarray(got, np.float64), np.asarray(want, np.float64)
            gap = np.abs(a - b) / np.maximum(1.0, np.abs(b))
            worst = float(np.max([worst, gap.max()]))  # NaN stays NaN
    return worst


def _run(artifact: Path, inputs: Sequence[np.ndarray]) -> list[Array]:
    data: Any = mapped(artifact)  # not the bytearray of JAX's annotation, which would be a copy
    loaded: Any = jax.export.deserialize(data)
    lowered: Any = jax.jit(loaded.call).lower(*inputs)
    del loaded, data  # its bytes are in what was lowered
    drop_caches()
    compiled = lowered.compile()
    return jax.tree.leaves(compiled(*inputs))


def drop_caches() -> None:
    """Give back the memory of what is no longer used, which JAX's caches keep."""
    jax.clear_caches()
    gc.collect()
