"""`make endurance` notices what it looks for."""

from pathlib import Path

import pytest

from tools.endurance import writers

KILLED = -9


@pytest.mark.parametrize(
    ("before", "after", "ends", "overwrite"),
    [
        (None, 1, {1: 0, 2: writers.REFUSED}, False),
        (None, None, {1: KILLED, 2: KILLED}, False),
        (None, 2, {1: writers.REFUSED, 2: KILLED}, False),
        (7, 7, {1: writers.REFUSED, 2: KILLED}, False),
        (7, 7, {1: KILLED, 2: KILLED}, True),
        (7, 2, {1: 0, 2: KILLED}, True),
    ],
)
def test_what_may_be(before, after, ends, overwrite):
    writers.judge(before, after, ends, overwrite)


@pytest.mark.parametrize(
    ("before", "after", "ends", "overwrite", "says"),
    [
        (None, 1, {1: 0, 2: 0}, False, "2 writers say"),
        (None, None, {1: 0, 2: writers.REFUSED}, False, "None: not what was written"),
        (7, 1, {1: KILLED, 2: writers.REFUSED}, False, "replaced without overwrite"),
        (7, 7, {1: 0, 2: writers.REFUSED}, False, "was not"),
        (7, None, {1: KILLED, 2: KILLED}, True, "neither old nor new"),
        (7, 7, {1: 0, 2: KILLED}, True, "neither old nor new"),
        (7, 1, {1: 0, 2: writers.REFUSED}, True, "refused although"),
        (7, 1, {1: 0, 2: 1}, True, "exit codes"),
    ],
)
def test_what_may_not_be(before, after, ends, overwrite, says):
    with pytest.raises(AssertionError, match=says):
        writers.judge(before, after, ends, overwrite)


def test_a_mixed_checkpoint_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    writers.write(path, 1, overwrite=False)
    assert writers.number_in(path) == 1
    data = bytearray(path.read_bytes())
    data[-4:] = b"\x00\x00\x00\x40"  # the last number is 2.0 now
    path.write_bytes(data)
    with pytest.raises(AssertionError, match="versions"):
        writers.number_in(path)


def test_writers_that_are_killed_leave_whole_checkpoints(tmp_path: Path) -> None:
    assert list(writers.run(tmp_path, ".safetensors", 3)) == []
