"""Weights stored in parts (normalized, pruned, dropped), put together as PyTorch does."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np


def _normalized(parts: Sequence[np.ndarray]) -> np.ndarray | None:
    """g · v / ‖v‖, the norm over the axes on which g has size 1 (Salimans & Kingma 2016)."""
    g, v = parts
    axes = tuple(range(v.ndim)) if g.ndim == 0 else tuple(np.flatnonzero(np.array(g.shape) == 1))
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(v.shape))
    if g.ndim not in (0, v.ndim) or g.shape not in ((), kept):
        return None
    wide = v.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):  # NaN and infinity are refused later
        return np.asarray(g / np.sqrt(np.sum(wide**2, axes, keepdims=g.ndim > 0)) * wide, v.dtype)


def _masked(parts: Sequence[np.ndarray]) -> np.ndarray | None:
    original, mask = parts
    return original * mask.astype(original.dtype) if original.shape == mask.shape else None


def _same(parts: Sequence[np.ndarray]) -> np.ndarray | None:
    return parts[0]


class Fold(NamedTuple):
    """The names of one kind of parts ({} is the weight's name), and how to put them together.

    `inside`: the weight belongs to this submodule of the parts' owner, which must be there.
    """

    title: str
    parts: tuple[str, ...]
    together: Callable[[Sequence[np.ndarray]], np.ndarray | None]
    inside: str = ""


FOLDS = (
    Fold("weight_norm", ("parametrizations.{}.original0", "parametrizations.{}.original1"),
         _normalized),
    Fold("weight_norm", ("{}_g", "{}_v"), _normalized),
    Fold("pruning", ("{}_orig", "{}_mask"), _masked),
    Fold("weight dropping", ("{}_raw",), _same, inside="module"),  # fastai's
    Fold("weight dropping", ("{}_raw",), _same),  # Salesforce's
)  # fmt: skip


def fold(
    tensors: Mapping[str, np.ndarray], kept: Collection[str] = ()
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The tensors after putting parts together, and a note for each kind of parts found.

    Parts whose names are in `kept` are left unchanged.

    Raises:
        ValueError: a parametrization cannot be computed from the tensors alone.
    """
    found = dict(tensors)
    notes = []
    owners = {name.rpartition(".")[0] for name in found}
    for title, patterns, together, inside in FOLDS:
        first = re.compile(r"(?P<owner>(.*\.)?)" + patterns[0].format(r"(?P<name>[^.]+)"))
        folded = []
        for match in [m for name in found if (m := first.fullmatch(name))]:
            names = [match["owner"] + pattern.format(match["name"]) for pattern in patterns]
            if any(name not in found or name in kept for name in names):
                continue
            if inside and match["owner"] + inside not in owners:
                continue
            target = match["owner"] + (f"{inside}." if inside else "") + match["name"]
            whole = together([found[name] for name in names])
            if whole is None or (target in found and found[target].shape != whole.shape):
                continue
            for name in names:
                del found[name]
            found[target] = whole
            folded.append(target)
        if folded:
            more = ", ..." if len(folded) > 3 else ""
            notes.append(f"folded: {title} of {', '.join(folded[:3])}{more} ({len(folded)})")
    left = [name for name in found if "parametrizations." in name and name not in kept]
    if left:
        raise ValueError(
            f"expected weights or weight_norm's parts, got {left[0]} ({len(left)} such), a "
            "parametrization that the file does not describe; in PyTorch, run "
            "torch.nn.utils.parametrize.remove_parametrizations(module, name), and save again."
        )
    return found, tuple(notes)
