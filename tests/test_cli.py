"""How a tool ends when it is told to."""

import signal
import subprocess
import sys

import pytest

TOOL = """
import tempfile, time
from kseg import cli

@cli.command
def main(argv=None):
    with tempfile.TemporaryDirectory(prefix=".exporting-", dir="."):
        print("started", flush=True)
        time.sleep(60)

raise SystemExit(main())
"""


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_behind(tmp_path, told):
    process = subprocess.Popen(
        [sys.executable, "-c", TOOL], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "started\n"
    process.send_signal(told)
    _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (130, "interrupted\n")
    assert not list(tmp_path.iterdir())
