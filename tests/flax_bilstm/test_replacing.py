"""What is written is there whole or not at all, whoever else writes, and whatever was there."""

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flax_bilstm.checkpoints import renaming
from flax_bilstm.checkpoints.replacing import TEMPORARY, replacing


def test_of_several_writers_without_overwrite_one_wins(tmp_path: Path) -> None:
    target = tmp_path / "model"
    ended: list[str] = []
    refused: list[str] = []
    barrier = threading.Barrier(4)

    def write(number: int) -> None:
        try:
            with replacing(target, overwrite=False) as temporary:
                temporary.write_text(str(number))
                barrier.wait()
            ended.append(str(number))
        except ValueError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended == [target.read_text()]
    assert [("exists already" in message) for message in refused] == [True] * 3
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_exchanged(
    exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(renaming, "_rename", lambda *_: False)
    target = tmp_path / "run"
    target.mkdir()
    (target / "_CHECKPOINT_METADATA").write_text("before")
    with replacing(target) as temporary:
        temporary.mkdir()
        (temporary / "_CHECKPOINT_METADATA").write_text("after")
    assert (target / "_CHECKPOINT_METADATA").read_text() == "after"
    assert list(tmp_path.iterdir()) == [target]


def test_permissions_and_links_are_kept(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("before")
    file.chmod(0o600)
    link.symlink_to(file)
    with replacing(link) as temporary:
        temporary.write_text("after")
    assert link.is_symlink()
    assert file.read_text() == "after"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_what_is_no_checkpoint_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    for name, overwrite, says in [
        ("pipe", True, "found a FIFO"),
        ("loop", True, "loop of symbolic links"),
        ("dangling", False, "exists already"),
    ]:
        with pytest.raises(ValueError, match=says), replacing(tmp_path / name, overwrite=overwrite):
            pass


def test_what_a_killed_process_leaves_is_cleared(tmp_path: Path) -> None:
    program = (
        "import os, sys; from flax_bilstm.checkpoints.replacing import replacing\n"
        "with replacing(sys.argv[1]) as new: new.write_text('half'); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "model")])
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    with replacing(tmp_path / "model") as temporary:
        temporary.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_left_before_its_lock_was_taken_is_cleared_when_it_is_old(tmp_path: Path) -> None:
    old, new = tmp_path / f"{TEMPORARY}old", tmp_path / f"{TEMPORARY}new"
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (0, 0))
    with replacing(tmp_path / "model") as temporary:
        temporary.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [new.name, "model"]


def test_a_name_of_255_bytes(tmp_path: Path) -> None:
    with replacing(tmp_path / ("x" * 255)) as temporary:
        temporary.write_text("whole")
    assert (tmp_path / ("x" * 255)).read_text() == "whole"
