"""Settings of layers that only training mode uses, compared layer by layer."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

Called = Callable[[Iterable[str], Iterable[str]], tuple[Sequence[str], Sequence[str]]]
"""(paths in the reference, paths in the candidate) → these in the order in which each side calls
them, once for every call."""


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
    called: Called = lambda theirs, ours: ((), ()),
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
    named = {}
    for path in theirs.keys() & stages.keys():
        own = stages[path]
        inside = [other for other in ours if other == own or other.startswith(f"{own}.")]
        if len(inside) == 1:
            named[path] = inside[0]
    alone = [path for path in theirs if path not in named]
    ours_alone = [path for path in ours if path not in named.values()]
    pairs = list(named.items())
    if alone and ours_alone:
        orders = called(alone, ours_alone)
        if (
            len(orders[0]) == len(orders[1])
            and set(orders[0]) == set(alone)
            and (set(orders[1]) == set(ours_alone))
        ):
            pairs += zip(*orders, strict=True)
            alone = ours_alone = []
    paired = sorted({(theirs[path], ours[own]) for path, own in pairs})
    repeated = set() if ours_alone else {p for p in alone if theirs[p] in ours.values()}
    ours_repeated = set() if alone else {p for p in ours_alone if ours[p] in theirs.values()}
    rest = (
        distinct(theirs[p] for p in alone if p in stages or p not in repeated),
        distinct(ours[p] for p in ours_alone if p in stages.values() or p not in ours_repeated),
    )
    apart = [path for path, own in pairs if theirs[path] != ours[own]]
    apart += [*alone, *ours_alone] if rest[0] != rest[1] else []
    return Setting(
        name,
        (*(value for value, _ in paired), *rest[0]),
        (*(value for _, value in paired), *rest[1]),
        f", at {', '.join(sorted(set(apart)))}" if apart and all(apart) else "",
    )


def distinct(values: Iterable[float]) -> tuple[float, ...]:
    """Each value once, in ascending order."""
    return tuple(sorted(set(values)))
