"""What a row of a report is about: the case, the check, the dtype and the array."""

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Case:
    """The network and the inputs that are checked.

    Attributes:
        what: the kind of the case; cases of one kind are summarized together.
        which: the one of its kind, for instance its sizes and its seed.
    """

    what: str = ""
    which: str = ""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.what, self.which)))


ONE_CASE = Case()
"""The case of a check that has no other."""


@dataclass(frozen=True)
class Place:
    """What is compared.

    Attributes:
        case: the network and its inputs.
        check: "parameters", "inputs", "local" (every stage computed from the reference's values),
            "forward", "gradients", "forward again" and "gradients again" (on other values for what
            is still 0 or 1), "forward after training" (on what training leaves, if that changes a
            buffer),
            "training mode" (what only training mode does), "training", "update" (the optimizer
            alone) or "predictions".
        dtype: the dtype that both sides compute in; "" if the check has none.
        name: the stage, parameter or moment.
        step: in training, the step, from 1.
        optimizer: in training and updates, the optimizer's name.
        explains: whether the row explains a failed check: it is its first wrong stage.
    """

    case: Case = ONE_CASE
    check: str = ""
    dtype: str = ""
    name: str = ""
    step: int | None = None
    optimizer: str = ""
    explains: bool = False

    @property
    def group(self) -> "Place":
        """The place without name and step: all of one check in one dtype."""
        return Place(
            self.case, self.check, self.dtype, optimizer=self.optimizer, explains=self.explains
        )

    @property
    def check_title(self) -> str:
        """The check in words."""
        first = "first wrong stage" if self.explains else ""
        return ", ".join(filter(None, (first, self.check, self.optimizer)))

    @property
    def title(self) -> str:
        """Case, check, dtype and step in words."""
        step = "" if self.step is None else f"step {self.step}"
        return ", ".join(filter(None, (str(self.case), self.check_title, self.dtype, step)))

    def matches(self, pattern: str) -> bool:
        """Whether a pattern, `*` for any letters, is that of the name or of `check/name`.

        What explains a failed check is a stage that was run alone, so its check is "local". The
        patterns for "training" are for "training mode", too.
        """
        check = "local" if self.explains else self.check
        names = [self.name, f"{check}/{self.name}"]
        if check == "training mode":
            names.append(f"training/{self.name}")
        return pattern in names or any(fnmatchcase(name, pattern) for name in names)
