"""Settings of layers that only training mode uses, compared layer by layer."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

Called = Callable[[Iterable[str], Iterable[str]], tuple[Sequence[str], Sequence[str]]]
"""(paths in the reference, paths in the candidate) → these in the order in which each side calls
them, once for every call."""


def never_called(theirs: Iterable[str], ours: Iterable[str]) -> tuple[Sequence[str], Sequence[str]]:
    """`Called` where no side is run."""
    return (), ()


@dataclass(frozen=True)
class Setting:
    """A setting of layers that only training mode uses.

    Attributes:
        name: its name in reports.
        reference: its values in the reference: those of paired layers, then those of the others.
        candidate: those in the candidate, in the same meaning and order.
        hint: what explains a difference, if that is known.
    """

    name: str
    reference: tuple[float, ...]
    candidate: tuple[float, ...]
    hint: str = ""

    @property
    def equal(self) -> bool:
        """Whether both sides have the same values."""
        return self.reference == self.candidate

    @property
    def words(self) -> str:
        """The values of both sides."""
        if self.equal:
            return f"{self.name} {list(self.reference)} in both"
        theirs, ours = list(self.reference) or "none", list(self.candidate) or "none"
        return f"{self.name} {theirs} in the reference, {ours} in the candidate{self.hint}"


def setting(
    name: str,
    theirs: Mapping[str, float],
    ours: Mapping[str, float],
    stages: Mapping[str, str],
    called: Called = never_called,
) -> Setting:
    """The values of each pair of layers, then those of the other layers, each once.

    A layer is paired with that of its name, or with the only one inside the module of its name.
    If the other layers are called equally often on both sides, they are paired in the order of
    their calls. Else they are not counted: one layer may be called where the other side has
    several. So a layer that is left on one side only needs the value of any layer of the other
    side, unless that side has a layer of its name.

    Args:
        name: the name of the setting.
        theirs: the values in the reference, by the layers' paths.
        ours: those in the candidate.
        stages: path in the reference → path in the candidate of submodules with the same name.
        called: the order in which layers are called.
    """
    pairs = _of_one_name(theirs, ours, stages)
    pairs += _of_one_order(*_alone(theirs, ours, pairs), called)
    alone, ours_alone = _alone(theirs, ours, pairs)
    paired = sorted({(theirs[path], ours[own]) for path, own in pairs})
    rest = _needed(theirs, alone, stages.keys(), () if ours_alone else ours.values())
    ours_rest = _needed(ours, ours_alone, stages.values(), () if alone else theirs.values())
    apart = {path for path, own in pairs if theirs[path] != ours[own]}
    if rest != ours_rest:
        apart.update(alone, ours_alone)
    return Setting(
        name,
        (*(value for value, _ in paired), *rest),
        (*(value for _, value in paired), *ours_rest),
        f", at {', '.join(sorted(apart))}" if apart and all(apart) else "",
    )


def _of_one_name(
    theirs: Iterable[str], ours: Iterable[str], stages: Mapping[str, str]
) -> list[tuple[str, str]]:
    """The pairs of a layer and the only one that has its name or is inside the module that has."""
    inside = {
        path: [own for own in ours if own == stages[path] or own.startswith(f"{stages[path]}.")]
        for path in theirs
        if path in stages
    }
    return [(path, found[0]) for path, found in inside.items() if len(found) == 1]


def _of_one_order(
    alone: Sequence[str], ours_alone: Sequence[str], called: Called
) -> list[tuple[str, str]]:
    """The pairs of these layers in the order of their calls, if both sides call all equally often.

    Nothing is called if one side has no layers.
    """
    if not alone or not ours_alone:
        return []
    order, our_order = called(alone, ours_alone)
    if set(order) != set(alone) or set(our_order) != set(ours_alone):
        return []
    return list(zip(order, our_order, strict=True)) if len(order) == len(our_order) else []


def _alone(
    theirs: Iterable[str], ours: Iterable[str], pairs: Sequence[tuple[str, str]]
) -> tuple[list[str], list[str]]:
    """The layers of either side that are in no pair."""
    paired, ours_paired = {path for path, _ in pairs}, {own for _, own in pairs}
    return [p for p in theirs if p not in paired], [p for p in ours if p not in ours_paired]


def _needed(
    values: Mapping[str, float],
    alone: Iterable[str],
    named: Collection[str],
    others: Collection[float],
) -> tuple[float, ...]:
    """The values of layers in no pair, without those of `others` unless the layer is in `named`."""
    return distinct(values[p] for p in alone if p in named or values[p] not in others)


def distinct(values: Iterable[float]) -> tuple[float, ...]:
    """Each value once, in ascending order."""
    return tuple(sorted(set(values)))
