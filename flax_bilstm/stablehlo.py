"""A model as one file that JAX alone can run: StableHLO with the weights inside, by `jax.export`.

https://docs.jax.dev/en/latest/export/export.html
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array

from flax_bilstm import arguments
from flax_bilstm.lstm import LSTM
from flax_bilstm.network import BiLSTMWithAttention

PLATFORMS = ("cpu", "cuda", "tpu")


Input = jax.ShapeDtypeStruct | tuple[str, DTypeLike]
"""A shape and dtype; in ("batch, time, 8", "float32") the names are sizes that are left open."""


CARRIED = {"bfloat16": np.int16}
"""The dtype of the argument in whose place a constant is; the others are their own."""

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
    run, frozen, shapes = _parts(model, inputs, lengths, mask)
    # A clone belongs to the trace; nnx.scan in a model needs it.
    return _exported(lambda *arrays: run(nnx.clone(frozen), *arrays), shapes)


def with_weights_outside(
    model: nnx.Module, lengths: bool = False, mask: bool = False
) -> tuple[jax.export.Exported, list[np.ndarray]]:
    """This library's `model` as a function of its inputs and, after them, of its weights.

    Those of bfloat16 are passed as int16, of which MLIR's constants can be read.
    """
    run, frozen, shapes = _parts(model, (), lengths, mask)
    parts: Any = nnx.split(frozen, nnx.Param, ...)
    graph, state, rest = parts
    leaves, tree = jax.tree.flatten(state)
    dtypes = [leaf.dtype for leaf in leaves]
    weights = [np.asarray(leaf).view(CARRIED.get(leaf.dtype.name, leaf.dtype)) for leaf in leaves]

    def call(*arrays: Array) -> Any:
        passed = map(jax.lax.bitcast_convert_type, arrays[len(shapes) :], dtypes)
        module = nnx.merge(graph, jax.tree.unflatten(tree, passed), rest)
        return run(module, *arrays[: len(shapes)])

    avals = [jax.ShapeDtypeStruct(weight.shape, weight.dtype) for weight in weights]
    return _exported(call, [*shapes, *avals]), weights


def _parts(model: nnx.Module, inputs: Sequence[Input], lengths: bool, mask: bool) -> Any:
    """How a module is called with inputs; the model for evaluation; the shapes of its inputs."""
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

    def run(module: Any, *arrays: Any) -> Any:
        count = len(arrays) - len(names)
        return module(*arrays[:count], **dict(zip(names, arrays[count:], strict=True)))

    return run, frozen, shapes


def _exported(call: Callable[..., Any], shapes: Sequence[Any]) -> jax.export.Exported:
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


def plain(model: nnx.Module) -> Any:
    """A copy of `model` for evaluation, in which every LSTM runs the plain scan."""
    copy = nnx.clone(model)
    copy.eval()
    for _, module in nnx.iter_modules(copy):
        if isinstance(module, LSTM):
            module.implementation = "scan"
    return copy
