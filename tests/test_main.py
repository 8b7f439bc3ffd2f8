"""The command `kseg`, in processes of its own, as users start it."""

import os
import subprocess
import sys

from conftest import ROOT

from kseg.__main__ import TOOLS


def _kseg(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "kseg", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_knows_every_tool():
    assert set(TOOLS) == {path.stem for path in (ROOT / "tools").glob("*.py")}


def test_without_a_tool_it_lists_them(tmp_path):
    done = _kseg(tmp_path)
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()[2:]] == list(TOOLS)
    assert "predict    Label every pixel of your images" in done.stdout


def test_a_tool_calls_itself_as_it_was_called(tmp_path):
    done = _kseg(tmp_path, "predict", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: kseg predict ")
    assert "  kseg predict exported/nuclei_unet_int8.tflite photo.jpg\n" in done.stdout
    assert "tools/" not in done.stdout


def test_a_tool_returns_its_exit_code(tmp_path):
    (tmp_path / "images").mkdir()
    done = _kseg(tmp_path, "check", ".")
    assert done.returncode == 2
    assert "kseg check . --propose" in done.stderr


def test_an_unknown_tool_is_told(tmp_path):
    done = _kseg(tmp_path, "frobnicate")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: no tool 'frobnicate'; there are: {', '.join(TOOLS)}\n"
