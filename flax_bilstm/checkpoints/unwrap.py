"""What people's checkpoint files really hold, taken out of its wrappings, and each one named.

A training checkpoint wraps the state dict (`locating`); DataParallel, torch.compile, FSDP and
Lightning put names of their own into its names; in a larger network it is a submodule. Weights may
lie in parts, which are put together (`folded`) for a module that has no such parts itself.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from flax_bilstm.checkpoints.folding import fold
from flax_bilstm.checkpoints.locating import is_tensor, locate, optimizer_beside
from flax_bilstm.checkpoints.pickled import StandIn
from flax_bilstm.checkpoints.showing import LONGEST, shown
from flax_bilstm.conversion.tensors import to_numpy

WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What compiling and sharding put into names, wherever it stands."""

ONLY_CHILD = "module"
"""DataParallel's: at the beginning, or in the middle where its parent has nothing else."""

PREFIXES = ("module.", "model.")
"""What is cut off where all names begin with it, besides `WRAPPERS`."""

AVERAGED_COUNT = "n_averaged"
"""torch.optim.swa_utils.AveragedModel's count, beside names that begin with "module."."""

EXTRA_STATE = "_extra_state"
"""What a module's get_extra_state returns, under the module's name: no parameter of ours."""


class Checkpoint(NamedTuple):
    """What a file holds for one model.

    `tensors` is its state dict. `optimizer` is PyTorch's optimizer state dict, or None. `renamed`
    has, for every name in the file and in its order, the name in `tensors` (None: not this
    model's). `notes` say what was unwrapped, stripped and left out.
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
    """The state dict in `content`, its names stripped of what all of them begin with.

    With `prefix` only the names that begin with it are taken, and the rest is left out; `key` is
    where the state dict lies. `keep` are those of `PREFIXES` that the model's own names begin with.

    Raises:
        ValueError: `content` holds no state dict or several, a value is no tensor, a name cannot
            be one, no name begins with `prefix`, or two names become one.
    """
    notes: list[str] = []
    found = locate(content, key)
    optimizer = optimizer_beside(found, notes)
    for depth, around in enumerate(found.around):
        notes.append(f"unwrapped: {shown(found.keys[depth])}")
        if beside := [shown(other) for other in around if other != found.keys[depth]]:
            more = [f"... ({len(beside)} in all)"] if len(beside) > 8 else []
            notes.append(f"beside it: {', '.join(beside[:8] + more)}")
    held = {name: value for name, value in found.state_dict.items() if not _is_extra(name, notes)}
    _check_names(held)
    names = _strip(held, prefix, keep, notes)
    others = [name for name in names if not is_tensor(held[name])]
    if others:
        raise ValueError(
            "expected a state dict, tensors alone, got also "
            f"{', '.join(f'{name} ({_kind(held[name])})' for name in others[:8])}; save the "
            "mapping that holds the tensors by itself."
        )
    tensors = to_numpy({names[name]: held[name] for name in names})
    renamed = {name: names.get(name) for name in held}
    return Checkpoint(tensors, optimizer, renamed, tuple(notes))


def folded(checkpoint: Checkpoint, kept: Collection[str] = ()) -> Checkpoint:
    """The checkpoint with weights that are stored in parts put together; `kept` parts are left.

    Raises:
        ValueError: a parametrization is one that the tensors alone do not tell.
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


def _kind(value: Any) -> str:
    """What a value is, or would have been."""
    if isinstance(value, StandIn):
        return f"{shown(value.name)}, which was not run"
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
    """Name in the file → name in the model, for the names that are the model's."""
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
            f"prefix: expected one that names begin with, got {prefix!r}; the names are "
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


def _without_wrappers(name: str) -> str:
    for part in WRAPPERS:
        name = name.removeprefix(part).replace(f".{part}", ".")
    return name


def _without_only_children(taken: dict[str, str]) -> tuple[dict[str, str], bool]:
    """The names without DataParallel's in their middle, and whether there was one."""
    paths = {old: new.split(".") for old, new in taken.items()}
    children: dict[tuple[str, ...], set[str]] = {}
    for path in paths.values():
        for depth in range(1, len(path) - 1):
            children.setdefault(tuple(path[:depth]), set()).add(path[depth])
        children.setdefault(tuple(path[:-1]), set()).add("")  # a tensor of its own
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
