"""The first 500 of the damaged files that `make fuzz` reads."""

import pytest

from tools.fuzzing import __main__ as fuzzing


def test_damaged_files_are_read_or_refused_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzzing.main(500) == 0, capsys.readouterr().out
    counts = capsys.readouterr().out
    assert "read" in counts
    assert "refused" in counts
