"""Files made to hang, to fill the memory or to run code: refused in words, soon, in little room."""

import copy
import errno
import os
import pickle
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm import checkpoints
from flax_bilstm.checkpoints import archive, pickle_machine, pickled, torch_file, torch_writing
from flax_bilstm.checkpoints.pickle_machine import Limits

LIMIT = 5.0
"""Seconds for refusing."""


def tensor(sizes: tuple[int, ...], strides: tuple[int, ...], count: int = 1) -> bytes:
    """The pickle of {"w": a tensor of one storage}."""
    number, numbers = torch_writing._number, torch_writing._numbers
    return b"".join([
        b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storage",
        b"ctorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu", number(count), b"tQ", number(0),
        numbers(sizes), numbers(strides), b"\x89ccollections\nOrderedDict\n)RtRs.",
    ])  # fmt: skip


def write(path: Path, pickle_: bytes, storage: bytes = b"\0" * 4, **options: Any) -> None:
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr("archive/data.pkl", pickle_)
        file.writestr("archive/data/0", storage)
        file.writestr("archive/version", "3\n")


def nested(count: int) -> bytes:
    """A tuple in a tuple in … : to hash it takes 2^count steps."""
    return b"\x80\x02}" + b")" + b"2\x86" * count + b"K\x01s."


def shared(names: int) -> bytes:
    """A pickle of one array of 1 MiB under many names."""
    array = np.ones(2**18, np.float32)
    return pickle.dumps({f"x{number}": array for number in range(names)})


def of_many_axes(axes: int) -> bytes:
    """The pickle of a NumPy array with so many axes."""
    return b"".join([
        b"\x80\x02}U\1acnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85U\1btR",
        b"(K\1(" + b"K\xff" * axes + b"tcnumpy\ndtype\nU\2f4\x89\x88\x87R(K\3U\1<NNN",
        b"J\xff\xff\xff\xff" * 2 + b"K\0tb\x89U\4abcdtbs.",
    ])  # fmt: skip


def of_long_integers(kind: bytes) -> bytes:
    """The pickle of a tensor of 32 axes whose sizes or strides have 100,000 bytes each."""
    number = b"\x8b" + struct.pack("<i", 100_000) + b"\xff" * 99_999 + b"\1q\0" + b"h\0" * 31
    usual = tensor((7,) * 32, (8,) * 32)
    return usual.replace(b"(" + kind * 32 + b"t", b"(" + number + b"t")


def of_one_hash(count: int) -> bytes:
    """Keys and values in turn, as opcodes: each key is another multiple of the hashes' modulus."""
    numbers = (number * (2**61 - 1) for number in range(1, count + 1))
    return b"".join(b"\x8a\x0b" + each.to_bytes(11, "little") + b"K\0" for each in numbers)


HOSTILE: dict[str, Callable[[Path], None]] = {
    "strides of 0": lambda path: write(path, tensor((40_000, 40_000), (0, 0))),
    "sizes that overflow": lambda path: write(path, tensor((2**40, 2**40), (0, 0))),
    "terabytes": lambda path: write(path, tensor((2**40,), (1,), 2**40)),
    "beyond the storage": lambda path: write(path, tensor((2,), (1,))),
    "a negative size": lambda path: write(path, tensor((-1,), (1,))),
    "a list that holds itself": lambda path: write(path, b"\x80\x02}K\x00]q\0h\0as."),
    "a dict that holds itself": lambda path: write(path, b"\x80\x02}q\0X\1\0\0\0ah\0s."),
    "nested tuples as a key": lambda path: write(path, nested(200)),
    "a great memo index": lambda path: write(path, b"\x80\x02Nr\xff\xff\xff\x7f."),
    "a zip bomb": lambda path: write(
        path, b"\x80\x02" + b"N0" * 2**22 + b"}.", compression=zipfile.ZIP_DEFLATED
    ),
    "a long string that is not there": lambda path: path.write_bytes(b"\x80\x05\x8d" + b"\xff" * 9),
    "a call of a call": lambda path: write(path, b"\x80\x02cos\nsystem\nX\1\0\0\0a\x85R)R."),
    "one array under many names": lambda path: path.write_bytes(shared(2_000)),
    "a wrong checksum": lambda path: _flip(path),
    "a safetensors header without end": lambda path: path.write_bytes(
        struct.pack("<Q", 2**62) + b"{"
    ),
    "safetensors of terabytes": lambda path: _safetensors(
        path, b'{"w":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    ),
    "sizes of 100,000 bytes": lambda path: write(path, of_long_integers(torch_writing._number(7))),
    "strides of 100,000 bytes": lambda path: write(
        path, of_long_integers(torch_writing._number(8))
    ),
    "a NumPy array of 1,000,000 axes": lambda path: path.write_bytes(of_many_axes(1_000_000)),
    "safetensors of 1,000,000 axes": lambda path: _safetensors(
        path, b'{"w":{"dtype":"F32","shape":[%s255],"data_offsets":[0,4]}}' % (b"255," * 999_999)
    ),
    "100,000 keys of one hash": lambda path: path.write_bytes(
        b"\x80\x02}(" + of_one_hash(100_000) + b"u."
    ),
    "100,000 pairs of one hash": lambda path: path.write_bytes(
        b"\x80\x02ccollections\nOrderedDict\n("
        + of_one_hash(100_000).replace(b"K\0", b"K\0\x86")
        + b"l\x85R."
    ),
    "one member under 1,000 names": lambda path: _overlapping(path),
    "deep JSON": lambda path: _safetensors(path, b"{" + b'"a":{' * 100_000),
}


def _flip(path: Path) -> None:
    torch_writing.write({"w": np.arange(64.0)}, path)
    raw = bytearray(path.read_bytes())
    raw[raw.index(np.arange(64.0).tobytes()) + 100] ^= 1
    path.write_bytes(raw)


def _overlapping(path: Path) -> None:
    """An archive whose directory has one storage of 8 MiB under 1,000 names."""
    names = [f"archive/data/{number:03}" for number in range(1_000)]
    pickle_ = b"\x80\x02}(" + b"".join(
        tensor((1,), (1,))[3:-2].replace(b"X\1\0\0\x000", b"X\3\0\0\0" + name[-3:].encode())
        .replace(b"X\1\0\0\0w", b"X\4\0\0\0w" + name[-3:].encode())
        for name in names
    ) + b"u."  # fmt: skip
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle_)
        file.writestr(names[0], b"\0" * 2**23)
        for name in names[1:]:
            again = copy.copy(file.infolist()[1])
            again.filename = name
            file.filelist.append(again)


def _safetensors(path: Path, header: bytes) -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_files_are_refused_soon_and_in_little_room(what: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    HOSTILE[what](path)
    start = time.process_time()
    with pytest.raises(ValueError, match="expected") as info:
        checkpoints.read(path)
    assert time.process_time() - start < LIMIT
    assert len(str(info.value)) < 1_000


def test_one_layer_may_be_used_many_times(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(600, 600, bias=False)
    torch.save(torch.nn.ModuleList([layer] * 24).state_dict(), tmp_path / "tied.pt")
    assert len(checkpoints.read(tmp_path / "tied.pt").tensors) == 24
    (tmp_path / "one.pkl").write_bytes(shared(24))
    assert len(checkpoints.read(tmp_path / "one.pkl").tensors) == 24


@pytest.mark.parametrize("item", [b"}", b"]", b"cos\na\n)R", b"K\0\x85"])
def test_the_objects_of_a_pickle_are_counted(item: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_machine, "MOST_OBJECTS", 1_000)
    with pytest.raises(pickled.DamagedError, match="more than 1,000 objects"):
        pickled.load(
            b"\x80\x02(" + item * 1_001 + b"t.", lambda *call: None, lambda identity: None, Limits()
        )


@pytest.mark.parametrize(
    "pickles",
    [
        b"\x80\x02" + b"N0" * 500 + b"N.",
        b"".join(
            pickle.dumps(value, 2)[:2] + b"N0" * 120 + pickle.dumps(value, 2)[2:]
            for value in (torch_file.LEGACY_MAGIC, 1001, {}, {}, [])
        ),
        b"\x80\x02"
        + b"ctorch.storage\n_load_from_bytes\nB\x52\2\0\0\x80\x02%sN.\x85R0" % (b"N0" * 295) * 2
        + b"N.",
        b"\x80\x02" + b"X\1\0\0\0a0" * 220 + b"N.",
    ],
    ids=["one pickle", "the old format", "a pickle inside another", "strings, which count four"],
)
def test_opcodes_of_all_pickles_count(pickles: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_machine, "MOST_OPCODES", 1_000)
    with pytest.raises(pickled.DamagedError, match="more than 1,000 opcodes in all"):
        torch_file.load(pickles)


def test_more_members_than_any_file_has() -> None:
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0, 0xFFFF, 0, 0, 0)
    record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 2**40, 2**40, 0, 0)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, 0, 1)
    with pytest.raises(pickled.DamagedError, match="lists more than"):
        archive.members(record + locator + end)


@pytest.mark.parametrize(
    "name", ["a\x1b[31mred", "line\nbreak", "surrogate\ud800", "x" * 100_000, 7, None, (1, 2)]
)
def test_names_that_no_tensor_has_are_refused_and_escaped(name: Any, tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({name: np.ones(2, np.float32)}))
    with pytest.raises(ValueError, match="expected names of tensors, printable") as info:
        checkpoints.read(tmp_path / "m.pkl")
    assert str(info.value).isprintable()
    assert len(str(info.value)) < 600


@pytest.mark.parametrize("content", [{}, {"_extra_state": 1}, {"state_dict": {}}])
def test_an_empty_state_dict(content: Any, tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match="expected a state dict"):
        checkpoints.read(tmp_path / "m.pkl")
    with pytest.raises(ValueError, match="expected a state dict"):
        checkpoints.read(tmp_path / "m.pkl", key="state_dict" if "state_dict" in content else None)


@pytest.mark.parametrize("call", ["read", "save"])
def test_paths_that_the_system_refuses(call: str) -> None:
    path, model = "a" * 5_000, fb.LSTM(2, 3, rngs=nnx.Rngs(0))
    with pytest.raises(OSError, match=f"could not be {'written' if call == 'save' else call}: File"
                       " name too long; check the name") as info:  # fmt: skip
        fb.save(model, path) if call == "save" else fb.load(path)
    assert str(info.value).startswith(f"{'a' * 200}… (5,000 characters): ")
    assert info.value.errno == errno.ENAMETOOLONG


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="a file of Linux")
def test_a_file_that_the_system_does_not_read() -> None:
    with pytest.raises(OSError, match=r"^/proc/self/mem: could not be read: Input/output error; "):
        fb.load("/proc/self/mem")


def test_what_blocks_a_reader_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(ValueError, match="found a FIFO"):
        checkpoints.read(tmp_path / "pipe.pt")
    (tmp_path / "loop.pt").symlink_to(tmp_path / "loop.pt")
    with pytest.raises(FileNotFoundError, match="a symbolic link that leads nowhere"):
        checkpoints.read(tmp_path / "loop.pt")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "_METADATA").write_text("{}")
    os.mkfifo(tmp_path / "run" / "manifest.ocdbt")
    with pytest.raises(ValueError, match=r"found a FIFO, manifest\.ocdbt; remove it"):
        checkpoints.read(tmp_path / "run")


@pytest.mark.parametrize(
    ("body", "what"), [(b"(" * 101, "more than 100 marks"), (b"N" + b"\x94" * 101, "remembers")]
)
def test_opcodes_of_one_byte_that_would_take_a_hundred_in_memory(
    body: bytes, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickle_machine, "MOST_MARKS", 100)
    monkeypatch.setattr(pickle_machine, "MOST_OBJECTS", 100)
    path = tmp_path / "bomb.pt"
    path.write_bytes(b"\x80\x04" + body + b"N.")
    with pytest.raises(ValueError, match=what):
        checkpoints.read(path)
