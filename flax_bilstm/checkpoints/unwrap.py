"""Unwraps the contents of checkpoint files, and describes each step.

A training checkpoint wraps the state dict (`locating`); DataParallel, torch.compile, FSDP and
Lightning add prefixes to its names; in a larger network it is a submodule. Weights may be stored
in parts, which are put together (`folded`) if the module does not have such parts.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from flax_bilstm.arguments import quoted
from flax_bilstm.checkpoints.folding import fold
from flax_bilstm.checkpoints.locating import is_tensor, locate, optimizer_beside
from flax_bilstm.checkpoints.shared_memory import check_sharing
from flax_bilstm.checkpoints.stand_ins import StandIn
from flax_bilstm.conversion.tensors import to_numpy
from flax_bilstm.showing import LONGEST, listed, shown

WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What compiling and sharding add to names, at any position."""

ONLY_CHILD = "module"
"""What DataParallel adds: at the beginning, or inside if it is the only child of its parent."""

DROPPED = "_raw"
"""The end of the names of weights that fastai drops; the module has a copy with zeros."""

PREFIXES = ("module.", "model.")
"""What is stripped if all names begin with it, besides `WRAPPERS`."""

AVERAGED_COUNT = "n_averaged"
"""The count of torch.optim.swa_utils.AveragedModel, beside names that begin with "module."."""

EXTRA_STATE = "_extra_state"
"""Key of the result of a module's get_extra_state, under the module's name: not a parameter."""


class Checkpoint(NamedTuple):
    """The contents of a file for one model.

    `tensors` is its state dict. `optimizer` is PyTorch's optimizer state dict, or None. `renamed`
    maps every name in the file, in its order, to the name in `tensors` (None: it does not belong to
    this model). `notes` say what was unwrapped, stripped and left out.
    """

    tensors: dict[str, np.ndarray]
    optimizer: Mapping[str, Any] | None
    renamed: Mapping[str, str | None]
    notes: tuple[str, ...]


def unwrap(
    content: Mapping[Any, Any],
    prefix: str | None = None,
    key: str | None = None,
    keep: Collection[str] = (),
) -> Checkpoint:
    """The state dict in `content`, without the prefixes that all of its names have.

    With `prefix` only the names that begin with it are used, and the rest is left out; `key` says
    where the state dict is. `keep`: those of `PREFIXES` that the model's names begin with.

    Raises:
        ValueError: `content` has no state dict or several, a weight is not a tensor, a name is not
            valid, no name begins with `prefix`, or two names become the same.
    """
    notes: list[str] = []
    found = locate(content, key)
    optimizer = optimizer_beside(found, notes)
    for depth, around in enumerate(found.around):
        notes.append(f"unwrapped: {shown(found.keys[depth])}")
        if beside := [shown(other) for other in around if other != found.keys[depth]]:
            notes.append(f"beside it: {listed(beside)}")
    if found.others:
        notes.append(f"other state dicts, by --key: {listed(found.others)}")
    held = {name: value for name, value in found.state_dict.items() if not _is_extra(name, notes)}
    if not held:
        raise ValueError(
            "expected a state dict with at least one tensor, got an empty one; save "
            "model.state_dict() of a model with weights."
        )
    _check_names(held)
    held = _without_extras(held, notes)
    names = _strip(held, prefix, keep, notes)
    others = [name for name in names if not is_tensor(held[name])]
    if others:
        raise ValueError(
            "expected dense tensors of numbers under the names of weights, got "
            f"{listed([f'{name} ({_kind(held[name])})' for name in others])}; save "
            "model.state_dict() with such tensors, or name a submodule that has them (prefix=, "
            "flax-bilstm --prefix)."
        )
    tensors = to_numpy({names[name]: held[name] for name in names})
    check_sharing(tensors)
    renamed = {name: names.get(name) for name in held}
    return Checkpoint(tensors, optimizer, renamed, tuple(notes))


def folded(checkpoint: Checkpoint, kept: Collection[str] = ()) -> Checkpoint:
    """The checkpoint after putting together weights stored in parts, except `kept` parts.

    Raises:
        ValueError: a parametrization cannot be computed from the tensors alone.
    """
    tensors, notes = fold(checkpoint.tensors, kept)
    optimizer = checkpoint.optimizer
    if notes and optimizer is not None:
        notes = ("left out: the optimizer's state, which is of the parts that were folded", *notes)
        optimizer = None
    return Checkpoint(tensors, optimizer, checkpoint.renamed, (*checkpoint.notes, *notes))


def _is_extra(name: Any, notes: list[str]) -> bool:
    extra = isinstance(name, str) and name.rpartition(".")[2] == EXTRA_STATE
    if extra:
        notes.append(f"left out: {shown(name)}")
    return extra


def _without_extras(held: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """What is held without the values beside the tensors, such as an epoch."""
    extras = [name for name, value in held.items() if _is_beside_weights(name, value)]
    if not extras or not any(map(is_tensor, held.values())):
        return held
    left = set(extras)
    notes.append(f"left out: {listed([f'{name} ({_kind(held[name])})' for name in extras])}")
    return {name: value for name, value in held.items() if name not in left}


def _is_beside_weights(name: str, value: Any) -> bool:
    """Whether a value is not a tensor, and neither its name nor its place are a weight's."""
    parent, _, own = name.rpartition(".")
    if is_tensor(value) or own.startswith(("weight", "bias")):
        return False
    return not parent or value is None or isinstance(value, (bool, int, float, str))


def _kind(value: Any) -> str:
    """The type of a value, or of the object that it stands in for."""
    if isinstance(value, StandIn):
        is_in_words = " " in value.name  # such as "a sparse tensor"; others are names of classes
        return shown(value.name) + ("" if is_in_words else ", which was not run")
    return type(value).__name__


def _check_names(held: Mapping[Any, Any]) -> None:
    for name in held:
        if not isinstance(name, str) or not name.isprintable() or len(name) > LONGEST:
            raise ValueError(
                f"expected names of tensors, printable and of at most {LONGEST} characters, got "
                f"{shown(name)} ({type(name).__name__})."
            )


def _strip(
    names: Collection[str], prefix: str | None, keep: Collection[str], notes: list[str]
) -> dict[str, str]:
    """Name in the file → name in the model, for the names that belong to the model."""
    taken = {name: _without_wrappers(name) for name in names}
    used = [part for part in WRAPPERS if any(part in name for name in taken)]
    if AVERAGED_COUNT in taken and all(
        name.startswith("module.") for name in taken if name != AVERAGED_COUNT
    ):
        del taken[AVERAGED_COUNT]
        notes.append(f"left out: {AVERAGED_COUNT}")
    stripped: list[str] = []
    wanted = prefix and _without_wrappers(prefix.rstrip(".") + ".")
    while taken:
        if wanted and any(name.startswith(wanted) for name in taken.values()):
            found, wanted = wanted, None
            taken = _with_dropped_inside(taken, found)
            inside = {old: new for old, new in taken.items() if new.startswith(found)}
            if len(inside) < len(taken):
                rest = [name for name in taken if name not in inside]
                shortened = ", ".join([*rest[:3], *["..."] * (len(rest) > 3)])
                notes.append(f"left out: {len(rest)} outside of {found} ({shortened})")
            taken = inside
        else:
            cut = [each for each in PREFIXES if each not in keep]
            shared = (p for p in cut if all(name.startswith(p) for name in taken.values()))
            found = next(shared, "")
            if not found:
                break
        taken = {old: new.removeprefix(found) for old, new in taken.items()}
        stripped.append(found)
    if wanted:
        raise ValueError(
            f"prefix: expected one that names begin with, got {quoted(prefix)}; the names are "
            f"{', '.join(list(taken.values())[:8])} ({len(taken)} in all)."
        )
    taken, lonely = _without_only_children(taken)
    stripped += [f"{ONLY_CHILD}."] if lonely else []
    stripped += used
    if len(set(taken.values())) < len(taken):
        raise ValueError(
            f"names: expected them to differ without {' '.join(stripped)}, got {_twice(taken)}."
        )
    if stripped:
        first = next(iter(taken), "")
        in_order = sorted(dict.fromkeys(stripped), key=first.find)
        notes.append(f"stripped: {' '.join(in_order)}")
    return taken


def _with_dropped_inside(taken: dict[str, str], prefix: str) -> dict[str, str]:
    """The names; those of weights that fastai drops, which are beside their module, inside of it.

    Only if `prefix` is that of the module or of what it is in.
    """
    around = {prefix, prefix.removesuffix(f"{ONLY_CHILD}.")}
    owners = {
        owner
        for owner in around
        if any(name.startswith(f"{owner}{ONLY_CHILD}.") for name in taken.values())
    }

    def moved(name: str) -> str:
        owner = name[: name.rfind(".") + 1]
        dropped = owner in owners and name.endswith(DROPPED)
        return f"{owner}{ONLY_CHILD}.{name.removeprefix(owner)}" if dropped else name

    return {old: moved(new) for old, new in taken.items()}


def _without_wrappers(name: str) -> str:
    for part in WRAPPERS:
        name = name.removeprefix(part).replace(f".{part}", ".")
    return name


def _without_only_children(taken: dict[str, str]) -> tuple[dict[str, str], bool]:
    """The names without DataParallel's prefix inside them, and whether there was one."""
    paths = {old: new.split(".") for old, new in taken.items()}
    children: dict[tuple[str, ...], set[str]] = {}
    for path in paths.values():
        for depth in range(1, len(path) - 1):
            children.setdefault(tuple(path[:depth]), set()).add(path[depth])
        children.setdefault(tuple(path[:-1]), set()).add("")  # a tensor directly in it
    lonely = {parent for parent, inside in children.items() if inside == {ONLY_CHILD}}
    if not lonely:
        return taken, False
    return {
        old: ".".join(
            part
            for depth, part in enumerate(path)
            if part != ONLY_CHILD or tuple(path[:depth]) not in lonely
        )
        for old, path in paths.items()
    }, True


def _twice(taken: Mapping[str, str]) -> str:
    first: dict[str, str] = {}
    for old, new in taken.items():
        if new in first:
            return f"{first[new]} and {old}, both {new}"
        first[new] = old
    return "none"
