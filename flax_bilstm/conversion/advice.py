"""Advice for a state dict that does not fit: the likely `names=`, and notes."""

import difflib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from flax_bilstm.conversion.layers import FLAX_WITHOUT, kind_of
from flax_bilstm.conversion.rows import Row
from flax_bilstm.conversion.transforms import identical
from flax_bilstm.conversion.tree import Path, children, dotted, reach, split

Expected = Mapping[str, jax.ShapeDtypeStruct]
Arrays = Mapping[str, np.ndarray]
Likely = dict[str, str | tuple[str, ...]]

_PARAMETRIZED = re.compile(r"\.parametrizations\.|weight_[gv]$|weight_(orig|u|v)$")

MOST = 20
"""Most entries of `names=`, and most notes, in one error."""


def advice(
    module: nnx.Module, rows: Sequence[Row], expected: Expected, arrays: Arrays
) -> Iterator[str]:
    """Lines that are shown below the problems."""
    cells = {
        path
        for path, layer in _layers(module, "", ())
        if type(layer) in FLAX_WITHOUT and isinstance(layer, nnx.RNNCellBase)
    }  # renaming does not help these
    theirs = {name: array for name, array in arrays.items() if not _PARAMETRIZED.search(name)}
    ours = [row for row in rows if not cells & set(_above(row.paths[0]))]
    if likely := likely_names(ours, expected, theirs):
        shown = ", ".join(
            f'"{flax}": {to!r}' for flax, to in itertools.islice(likely.items(), MOST)
        )
        yield f"likely: names={{{shown}}}".replace("'", '"')
    yield from itertools.islice(_notes(module, expected, arrays), MOST)


def likely_names(rows: Sequence[Row], expected: Expected, arrays: Arrays) -> Likely:
    """Flax path → the torch path with fitting names and shapes; of several the most similar."""
    owners = {name: row for row in rows for name in row.torch_names}
    missing = {name: expected[name].shape for name in owners if name not in arrays}
    surplus = {name: array.shape for name, array in arrays.items() if name not in expected}
    inside = _inside(missing, surplus) if len(missing) == len(expected) else None
    if inside is not None:
        return {"": inside}
    found = _ties(expected, surplus, {n: r for n, r in owners.items() if r.tied}, arrays)
    for path in found:  # already tied, but one of the names differs
        row = next(row for row in owners.values() if dotted(row.paths[0]) == path)
        for name in row.torch_names:
            missing.pop(name, None)
        for name in found[path]:
            surplus.pop(name, None)
    for propose in (_moved_index, _shared, _like_modules, _like_tensors):
        for path, to, names, taken in propose(missing, surplus, owners, arrays):
            found[path] = to
            for name in names:
                missing.pop(name, None)
            for name in taken:
                surplus.pop(name, None)
    found |= _ties(expected, surplus, owners, arrays)
    return found


Shapes = dict[str, tuple[int, ...]]
Proposals = Iterable[tuple[str, str, Iterable[str], Iterable[str]]]
"""Flax path, torch path, the missing names that this explains, the surplus names."""


def _inside(missing: Shapes, surplus: Shapes) -> str | None:
    """The torch module that contains everything."""
    first = next(iter(missing), "")
    for name in surplus:
        if first and name.endswith(f".{first}"):
            prefix = name.removesuffix(f".{first}")
            if all(surplus.get(f"{prefix}.{other}") == missing[other] for other in missing):
                return prefix
    return None


def _moved_index(
    missing: Shapes, surplus: Shapes, owners: Mapping[str, Row], arrays: Arrays
) -> Proposals:
    """A stack whose index is at another position in torch's names."""
    for name in list(missing):
        if name not in missing:  # already explained, with another name of its row
            continue
        row = owners[name]
        steps, flax = name.split("."), row.paths[0]
        at = next((i for i, step in enumerate(steps[: len(flax)]) if step != str(flax[i])), None)
        if at is None or not steps[at].isdigit() or len(row.torch_names) < 2:
            continue
        rest = steps[:at] + steps[at + 1 :]
        indices = [other.split(".")[at] for other in row.torch_names]
        for place in range(1, len(rest)):
            moved = [".".join([*rest[:place], index, *rest[place:]]) for index in indices]
            if all(surplus.get(other) == missing[name] for other in moved):
                to = ".".join([*rest[:place], "*"])
                yield dotted(flax[:place]), to, row.torch_names, moved
                break


def _shared(
    missing: Shapes, surplus: Shapes, owners: Mapping[str, Row], arrays: Arrays
) -> Proposals:
    """A module with two paths in Flax and one in torch."""
    for name in list(missing):
        for row in owners[name].tied:
            there = next((n for n in owners[name].torch_names if n in arrays), None)
            if name in row.torch_names and there is not None:
                module, torch = _module(name, row), there.rpartition(".")[0]
                yield module, torch or there, row.torch_names, ()


def _like_modules(
    missing: Shapes, surplus: Shapes, owners: Mapping[str, Row], arrays: Arrays
) -> Proposals:
    """Modules whose tensors have equal names and shapes."""
    groups: dict[str, Shapes] = {}
    for name, shape in missing.items():
        groups.setdefault(_module(name, owners[name]), {})[name] = shape
    theirs: dict[frozenset[Any], list[str]] = {}
    for module, tensors in _by_module(surplus).items():
        theirs.setdefault(frozenset(tensors.items()), []).append(module)
    for path, tensors in groups.items():
        wanted = frozenset((name.rpartition(".")[2], shape) for name, shape in tensors.items())
        fitting = theirs.get(wanted, [])
        torch_path = next(iter(tensors)).rpartition(".")[0]
        if torch_path and (nearest := difflib.get_close_matches(path, fitting, 1, cutoff=0.0)):
            fitting.remove(nearest[0])
            taken = [f"{nearest[0]}.{name}".lstrip(".") for name, _ in wanted]
            yield path, nearest[0], tensors, taken


def _like_tensors(
    missing: Shapes, surplus: Shapes, owners: Mapping[str, Row], arrays: Arrays
) -> Proposals:
    """Single tensors of the same shape: the only one, or the one with the most similar name."""
    for name, shape in list(missing.items()):
        row = owners[name]
        if len(row.paths) > 1 or len(row.torch_names) > 1:
            continue
        fitting = [other for other, has in surplus.items() if has == shape]
        alone = len(fitting) == 1 and list(missing.values()).count(shape) == 1
        nearest = difflib.get_close_matches(name, fitting, 1, cutoff=0.0 if alone else 0.5)
        if nearest:
            yield dotted(row.paths[0]), nearest[0], (name,), nearest


def _ties(expected: Expected, surplus: Shapes, owners: Mapping[str, Row], arrays: Arrays) -> Likely:
    """Surplus tensors that are equal to a matched one: tied weights."""
    by_bits: dict[Any, str] = {}
    for name in owners:
        if name in arrays and arrays[name].ndim > 1:
            by_bits.setdefault((arrays[name].shape, arrays[name].tobytes()[:1024]), name)
    found: Likely = {}
    for name in surplus:
        twin = by_bits.get((arrays[name].shape, arrays[name].tobytes()[:1024]))
        if twin and len(owners[twin].paths) == 1 and identical(arrays[name], arrays[twin]):
            there = [other for other in owners[twin].torch_names if other in arrays]
            found[dotted(owners[twin].paths[0])] = (*there, name)
    return found


def _module(name: str, row: Row) -> str:
    """The Flax path of the module that contains the last part of a torch name."""
    path = dotted(row.paths[0]).split(".")
    owner = name.split(".")[:-1]
    depth = 0
    for part in owner:  # the attribute `layers` of nnx.Sequential is not in torch's names
        merged = path[depth : depth + 2] == ["layers", part] and len(row.torch_names) == 1
        depth += 2 if merged else 1
    return ".".join(path[:depth] if owner else path)


def _by_module(tensors: Mapping[str, tuple[int, ...]]) -> dict[str, Shapes]:
    """Module → its tensors' names → shapes."""
    found: dict[str, Shapes] = {}
    for name, shape in tensors.items():
        owner, _, tensor = name.rpartition(".")
        found.setdefault(owner, {})[tensor] = shape
    return found


def _notes(module: nnx.Module, expected: Expected, arrays: Arrays) -> Iterator[str]:
    """Notes: layers without a torch equivalent, and plain arrays where torch has buffers."""
    for path, layer in _layers(module, "", ()):
        reason = next((FLAX_WITHOUT[cls] for cls in type(layer).__mro__ if cls in FLAX_WITHOUT), "")
        if reason and kind_of(layer) is None:
            yield f"note: {path or 'the module'} is an nnx.{type(layer).__name__}; {reason}"
    for name in arrays:
        if name not in expected and isinstance(reach(module, split(name)), (jax.Array, np.ndarray)):
            yield f'note: {name} is a plain array; make it an nnx.Variable, or ignore=("{name}",)'

    for name in arrays:
        if name not in expected and _PARAMETRIZED.search(name):
            yield (
                f"note: {name} is part of a weight; in PyTorch, remove_parametrizations or "
                "remove_weight_norm, of torch.nn.utils, makes it a plain one"
            )


def _above(path: Path) -> Iterator[str]:
    """The paths of the modules around a variable."""
    return (dotted(path[:depth]) for depth in range(len(path)))


def _layers(node: Any, path: str, above: tuple[Any, ...]) -> Iterator[tuple[str, nnx.Module]]:
    if isinstance(node, nnx.Module):
        yield path, node
    for key, child in children(node):
        if not isinstance(child, nnx.Variable) and not any(child is other for other in above):
            yield from _layers(child, f"{path}.{key}".lstrip("."), (*above, node))
