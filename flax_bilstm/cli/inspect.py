"""`flax-bilstm inspect`: what a checkpoint contains, and why it would not load."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from flax_bilstm import checkpoints
from flax_bilstm.checkpoints.unwrap import Checkpoint
from flax_bilstm.conversion import optimizer as optimizer_state
from flax_bilstm.conversion.order import in_the_models_names, parameter_order
from flax_bilstm.conversion.reading import is_ours, read_sizes
from flax_bilstm.conversion.recognize import recognize
from flax_bilstm.conversion.rows import rows, variables
from flax_bilstm.conversion.weights import check_state_dict, from_state_dict
from flax_bilstm.initializers import same_key
from flax_bilstm.network import Unused
from flax_bilstm.showing import counted

PIECE = 2**18
"""Most numbers whose norm is computed at once."""

MOST_SHOWN = 100
"""Most tensors and layers that are shown to people; `--json` has all of them."""


def inspect(path: Path, prefix: str | None = None, key: str | None = None) -> dict[str, Any]:
    """The output of `flax-bilstm inspect --json`; programs may rely on the keys.

    file, format, notes (what was unwrapped, stripped, left out), model (class and sizes, if it is
    this library's, else null), layers (name, one_of: torch's classes that it can be, sizes),
    numbers (how many, in all tensors), bytes, tensors (name, shape, dtype, norm: the Euclidean one
    in float64, null if it is not finite or overflows; not_finite: how many values are not finite;
    unused: whether no forward pass reads it), optimizer (its equivalent in optax, or why its state
    cannot be converted; null if the file has none), problems (what would not load and why), loads
    (whether it would load without `into`; null for another network, which needs `into`).

    Raises:
        ValueError, OSError, ImportError: the file cannot be read.
    """
    read = checkpoints.read(path, prefix, key)
    arrays = read.tensors
    ours = is_ours(arrays)
    model, unused = _model(arrays) if ours else (None, set())
    problems = _problems(arrays) if ours else []
    distinct = {id(array): array for array in arrays.values()}  # tied weights have one array
    norms = {key: _norm(array) for key, array in distinct.items()}
    return {
        "file": str(path),
        "format": checkpoints.detect(path).title,
        "notes": list(read.notes),
        "model": model,
        "layers": [
            {"name": found.path, "one_of": list(found.kinds), "sizes": found.sizes}
            for found in recognize(arrays)
            if found.kinds
        ],
        "numbers": sum(array.size for array in arrays.values()),
        "bytes": sum(array.nbytes for array in arrays.values()),
        "tensors": [
            {
                "name": name,
                "shape": list(array.shape),
                "dtype": array.dtype.name,
                **norms[id(array)],
                "unused": name in unused,
            }
            for name, array in arrays.items()
        ],
        "optimizer": _optimizer(read, ours and not problems),
        "problems": problems,
        "loads": not problems if ours else None,
    }


def render(found: dict[str, Any]) -> str:
    """The result of `inspect`, for people."""
    lines = [f"{found['file']}: {found['format']}", *(f"  {note}" for note in found["notes"])]
    if found["model"]:
        sizes = ", ".join(f"{k}={v}" for k, v in found["model"].items() if k != "class")
        lines.append(f"{found['model']['class']}({sizes})")
    layers = [("layer", "PyTorch's")]
    layers += [(layer["name"] or "(all of it)", _words(layer)) for layer in found["layers"]]
    lines += _table(layers)
    lines.append(
        f"{counted(len(found['tensors']), 'tensor')}, {counted(found['numbers'], 'number')}, "
        f"{counted(found['bytes'], 'byte')}"
    )
    lines += _table([("tensor", "shape", "dtype", "norm", ""), *map(_row, found["tensors"])])
    if found["optimizer"]:
        lines.append(f"optimizer: {found['optimizer']}")
    if found["loads"] is None:
        lines.append(
            "loads: into a module of your own, by fb.load(FILE, into=module); --code prints one"
        )
    else:
        lines += ["loads: yes"] if found["loads"] else ["loads: no", *found["problems"]]
    return "\n".join(lines)


def _row(tensor: dict[str, Any]) -> tuple[str, ...]:
    norm = f"{tensor['not_finite']} not finite" if tensor["not_finite"] else "overflows"
    if tensor["norm"] is not None:
        norm = f"{tensor['norm']:.6g}"
    shape = " × ".join(map(str, tensor["shape"])) or "scalar"
    of = "unused by the forward pass" if tensor["unused"] else "buffer" if _buffer(tensor) else ""
    return (tensor["name"], shape, tensor["dtype"], norm, of)


def _buffer(tensor: dict[str, Any]) -> bool:
    """Whether it is certainly not a parameter: statistics, integers, booleans."""
    running = tensor["name"].rpartition(".")[2] in ("running_mean", "running_var")
    return running or tensor["dtype"].startswith(("int", "uint", "bool"))


def _words(layer: dict[str, Any]) -> str:
    kinds = " or ".join(f"nn.{kind}" for kind in layer["one_of"])
    return f"{kinds}({', '.join(f'{name}={size}' for name, size in layer['sizes'].items())})"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The rows in columns, the first row as heading; nothing if there is only a heading."""
    shown = rows[: MOST_SHOWN + 1]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = [
        "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in shown
    ]
    if len(rows) > len(shown):
        lines.append(f"  ... and {len(rows) - len(shown)} more; --json has all of them")
    return lines if len(rows) > 1 else []


def to_json(found: dict[str, Any]) -> str:
    """The result of `inspect`, for programs."""
    return json.dumps(found, indent=2, allow_nan=False)


def _model(arrays: dict[str, np.ndarray]) -> tuple[dict[str, Any] | None, set[str]]:
    """The model's class and sizes, and the names of the tensors that no forward pass reads."""
    try:
        kind, sizes = read_sizes(arrays)
        module = nnx.eval_shape(lambda: kind(**sizes, rngs=same_key()))
    except ValueError:  # `_problems` reports why
        return None, set()
    held = variables(module)
    unused = {
        name
        for row in rows(module)
        if isinstance(held[row.paths[0]], Unused)
        for name in row.torch_names
    }
    return {"class": kind.__name__, **sizes}, unused


def _norm(array: np.ndarray) -> dict[str, Any]:
    """The norm for any dtype, in float64, computed in pieces to avoid a copy as large as the array.

    A square that overflows is avoided: the values are scaled by powers of 2, which is exact.
    """
    flat, not_finite, norm = array.reshape(-1), 0, 0.0
    for start in range(0, flat.size, PIECE):
        piece = flat[start : start + PIECE]
        values = np.abs(piece.astype(np.complex128 if piece.dtype.kind == "c" else np.float64))
        not_finite += int(np.count_nonzero(~np.isfinite(values)))
        exponent = int(np.frexp(values.max())[1])
        scaled = np.linalg.norm(np.ldexp(values, -exponent))
        with np.errstate(over="ignore"):
            norm = math.hypot(norm, np.ldexp(scaled, exponent))
    return {"norm": norm if math.isfinite(norm) else None, "not_finite": not_finite}


def _problems(arrays: dict[str, np.ndarray]) -> list[str]:
    """Everything that prevents loading the tensors into the model that they describe."""
    try:
        with jax.enable_x64(True):
            check_state_dict(arrays)
    except ValueError as error:
        first, *each = str(error).splitlines()
        return [line.strip() for line in each] or [first]
    return []


def _optimizer(read: Checkpoint, loads: bool) -> str | None:
    if read.optimizer is None:
        return None
    try:
        if loads:
            with jax.enable_x64(True):
                model = from_state_dict(read.tensors)
                state = in_the_models_names(read.optimizer, read.renamed)
                order = parameter_order(model, state, read.renamed)
                optimizer_state.optimizer_from_torch(model, state, order)
        return optimizer_state.describe(read.optimizer)
    except ValueError as error:
        return str(error).removeprefix("optimizer: ")
