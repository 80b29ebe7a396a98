"""A few of the damaged checkpoints that `make fuzz` reads: 500 in all."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.fuzzing import __main__ as fuzzing
from tools.fuzzing import judge
from tools.fuzzing.kinds import KINDS

CASES = {
    "files": 300,
    "Orbax folders": 40,
    "torch.distributed.checkpoint folders": 60,
    "Hugging Face folders": 60,
    "states of optimizers": 40,
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.title)
def test_damaged_checkpoints_are_read_or_refused_in_words(
    kind: fuzzing.Kind, capsys: pytest.CaptureFixture[str]
) -> None:
    if "torch" in kind.title:
        pytest.importorskip("torch")
    passed = fuzzing.run(kind, CASES[kind.title], judge.read)
    counts = capsys.readouterr().out
    assert passed, counts
    assert " read" in counts
    assert " refused" in counts


def endless() -> Iterator[None]:
    while True:
        yield


ENDS = {
    "read": lambda path: "fine",
    "refused": lambda path: _raise(ValueError(f"{path}: expected a file, got none.")),
    "unclear: ValueError('broadcast')": lambda path: _raise(ValueError("broadcast")),
    "unclear: 'a\\x1b[31m'": lambda path: "a\x1b[31m",
    "failed: KeyError: 'x'": lambda path: _raise(KeyError("x")),
    "failed: TimeoutError": lambda path: all(None is each for each in endless()),
    "left behind": lambda path: (path.parent / "left").write_text("") or "",
    "printed: by a thread": lambda path: judge.os.write(2, b"by a thread\n") and "",
}


def _raise(error: Exception) -> str:
    raise error


@pytest.mark.parametrize("ended", ENDS)
def test_the_judge(ended: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "HANG", 1)
    assert judge.outcome(tmp_path / "model", ENDS[ended]).startswith(ended)
