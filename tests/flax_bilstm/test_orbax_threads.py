"""What Orbax's threads print beside an error: nothing about results that come too late."""

import sys

import pytest

from flax_bilstm.checkpoints.orbax_threads import ignore_late_results


class Deleted:
    """Raises where Python can only print it, like a callback of a thread of C++."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __del__(self) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "printed"),
    [
        (RuntimeError("Event loop is closed"), False),
        (RuntimeError("another one"), True),
        (ValueError("Event loop is closed"), True),
    ],
)
def test_only_late_results_are_left_out(
    error: Exception,
    printed: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    ignore_late_results()
    Deleted(error)
    assert (str(error) in capsys.readouterr().err) is printed
