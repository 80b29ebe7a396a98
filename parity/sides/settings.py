"""Settings of layers that only training mode uses, compared as they are written."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """A setting of layers that only training mode uses.

    Attributes:
        name: its name in reports.
        reference: its values in the reference.
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


def of_pairs(
    name: str, theirs: Mapping[str, float], ours: Mapping[str, float], stages: Mapping[str, str]
) -> Setting:
    """The values of the layers that have the same name on both sides.

    Args:
        name: the name of the setting.
        theirs: the values in the reference, by the layers' paths.
        ours: those in the candidate.
        stages: path in the reference → path in the candidate of submodules with the same name.
    """
    both = {path: stages[path] for path in theirs if stages.get(path) in ours}
    values = sorted({(theirs[path], ours[own]) for path, own in both.items()})
    apart = sorted(path for path, own in both.items() if theirs[path] != ours[own])
    return Setting(
        name,
        tuple(value for value, _ in values),
        tuple(value for _, value in values),
        f", at {', '.join(apart)}" if apart and all(apart) else "",
    )


def of_all(name: str, theirs: Iterable[float], ours: Iterable[float]) -> Setting:
    """The values of all layers, each once."""
    return Setting(name, distinct(theirs), distinct(ours))


def distinct(values: Iterable[float]) -> tuple[float, ...]:
    """Each value once, in ascending order."""
    return tuple(sorted(set(values)))
