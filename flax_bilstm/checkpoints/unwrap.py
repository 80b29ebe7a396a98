"""What people's checkpoint files really hold, taken out of its wrappings, and each one named.

A training checkpoint wraps the state dict; DataParallel, torch.compile and Lightning put prefixes
before its names; in a larger network it is a submodule.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from flax_bilstm.conversion.tensors import to_numpy

STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")
OPTIMIZER_KEYS = ("optimizer_state_dict", "optimizer_states", "optimizer")
PREFIXES = ("module.", "_orig_mod.", "model.")
COMPILED = "._orig_mod."  # a submodule that was compiled on its own


class Checkpoint(NamedTuple):
    """What a file holds for one model.

    `tensors` is its state dict. `optimizer` is PyTorch's optimizer state dict, or None, and
    `parameters` the name in `tensors` of each of the parameters that the optimizer counts (None:
    not this model's). `notes` say what was unwrapped, stripped and left out.
    """

    tensors: dict[str, np.ndarray]
    optimizer: Mapping[str, Any] | None
    parameters: tuple[str | None, ...]
    notes: tuple[str, ...]


def unwrap(content: Mapping[str, Any], prefix: str | None = None) -> Checkpoint:
    """The state dict in `content`, its names stripped of what all of them begin with.

    With `prefix` only the names that begin with it are taken, and the rest is left out.

    Raises:
        ValueError: `content` holds no tensors where state dicts are kept, a value is no tensor, no
            name begins with `prefix`, or two names become one.
    """
    notes: list[str] = []
    optimizer = None
    while key := next((k for k in STATE_DICT_KEYS if isinstance(content.get(k), Mapping)), None):
        optimizer = optimizer or _optimizer(content, notes)
        notes.append(f"unwrapped: {key}")
        if left_out := [str(other) for other in content if other != key]:
            notes.append(f"beside it: {', '.join(left_out)}")
        content = content[key]
    if any(isinstance(value, Mapping) for value in content.values()):
        raise ValueError(
            "expected a state dict, or one under any of "
            f"{', '.join(STATE_DICT_KEYS)}, got a mapping with the keys "
            f"{', '.join(map(str, list(content)[:8]))} ({len(content)} in all); save the mapping "
            "that holds the tensors by itself."
        )
    content = {str(name): value for name, value in content.items()}
    names = _strip(content, prefix, notes)
    others = [name for name in names if not _is_tensor(content[name])]
    if others:
        raise ValueError(
            "expected a state dict, tensors alone, got also "
            f"{', '.join(f'{name} ({type(content[name]).__name__})' for name in others[:8])}; save "
            "the mapping that holds the tensors by itself."
        )
    try:
        arrays = to_numpy({names[name]: content[name] for name in names})
    except (TypeError, RuntimeError) as error:  # PyTorch's, of a sparse tensor, a float8, ...
        raise ValueError(
            f"expected dense tensors of a dtype that NumPy has too, got another: {error}"
        ) from error
    return Checkpoint(arrays, optimizer, tuple(map(names.get, content)), tuple(notes))


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _optimizer(content: Mapping[str, Any], notes: list[str]) -> Mapping[str, Any] | None:
    found = next((content[key] for key in OPTIMIZER_KEYS if content.get(key)), None)
    if isinstance(found, (list, tuple)):  # Lightning's, one for each optimizer
        if len(found) > 1:
            notes.append(f"left out: the states of {len(found)} optimizers; one can be read")
            return None
        found = found[0]
    return found if isinstance(found, Mapping) and "param_groups" in found else None


def _strip(names: Iterable[str], prefix: str | None, notes: list[str]) -> dict[str, str]:
    """Name in the file → name in the model, for the names that are the model's."""
    taken = {name: name.replace(COMPILED, ".") for name in names}
    stripped: list[str] = []
    wanted = prefix and (prefix.rstrip(".") + ".").replace(COMPILED, ".")
    while taken:
        if wanted and any(name.startswith(wanted) for name in taken.values()):
            found, wanted = wanted, None
            inside = {old: new for old, new in taken.items() if new.startswith(found)}
            if len(inside) < len(taken):
                rest = [name for name in taken if name not in inside]
                shown = ", ".join([*rest[:3], *["..."] * (len(rest) > 3)])
                notes.append(f"left out: {len(rest)} outside of {found} ({shown})")
            taken = inside
        else:
            shared = (p for p in PREFIXES if all(name.startswith(p) for name in taken.values()))
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
    if any(COMPILED in name for name in taken):  # wherever it stood
        stripped.append(COMPILED[1:])
    if len(set(taken.values())) < len(taken):
        raise ValueError(f"names: expected them to differ without {stripped}, got {sorted(taken)}.")
    if stripped:
        notes.append(f"stripped: {' '.join(dict.fromkeys(stripped))}")
    return taken
