"""A file is whole or not there."""

import errno
import json
import os
import subprocess
import sys

import pytest

from kseg.errors import InputError
from kseg.files import is_disk_full, replacing, write_json


def test_replaces_in_one_step(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_json_has_no_nan(tmp_path):
    write_json({"a": [1, float("nan")], "b": {"c": float("-inf")}, "d": (2.5, "x")}, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1, None], "b": {"c": None}, "d": [2.5, "x"]}


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file(tmp_path, fault):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(fault), replacing(path) as temporary:
        temporary.write_text("half")
        raise fault
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_kill_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    code = (
        "import os, signal, sys\nfrom kseg.files import replacing\n"
        "with replacing(sys.argv[1]) as t:\n t.write_text('half')\n os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -9
    assert path.read_text() == "old"


def test_the_longest_name(tmp_path):
    path = tmp_path / f"{'n' * 251}.txt"
    with replacing(path) as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("new")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize("name", ["n" * 256, "missing/a.txt", "folder"])
def test_what_cannot_be_written_is_told_by_its_own_name(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=f"{name}: cannot be written: "), replacing(tmp_path / name) as temporary:
        temporary.write_text("new")
    assert os.listdir(tmp_path) == ["folder"]


def test_a_full_disk_is_told_in_one_line(small_disk):
    path = small_disk / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(InputError, match=r"a\.bin: no space left"), replacing(path) as temporary:
        temporary.write_bytes(bytes(8_000_000))
    assert path.read_bytes() == b"old"
    assert os.listdir(small_disk) == ["a.bin"]


def test_a_full_disk_is_recognised_behind_other_errors():
    try:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise RuntimeError("HDF5 could not close the file") from error
    except RuntimeError as error:
        assert is_disk_full(error)
    assert not is_disk_full(OSError(errno.EACCES, os.strerror(errno.EACCES)))
