"""How a tool ends when it is told to, and what it prints."""

import logging
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kseg import cli
from kseg.data import read_image
from kseg.errors import InputError
from kseg.evaluation.scores import summarise
from kseg.labels import LabelSet

ROOT = Path(__file__).resolve().parent.parent

TOOL = """
import signal, tempfile, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored
from kseg import cli

@cli.command
def main(argv=None):
    with tempfile.TemporaryDirectory(prefix=".exporting-", dir="."):
        print("started", flush=True)
        for _ in range(600):  # one long sleep would miss a signal that comes just before it
            time.sleep(0.1)

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


def test_names_with_brackets_are_printed_as_they_are(capsys):
    labels = LabelSet(("[void]", "[/other]"), ((0, 0, 0), (1, 1, 1)))
    cli.print_scores(summarise(np.eye(2, dtype=int), labels, 1), "a title")
    cli.print_table(("layer",), [("[void]",), ("[/other]",)])
    printed = capsys.readouterr().out
    assert printed.count("[void]") == printed.count("[/other]") == 2


def test_tools_read_images_that_pillow_alone_refuses(tmp_path, monkeypatch):
    Image.new("RGB", (5, 5)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(InputError, match=r"large\.png"):
        read_image(tmp_path / "large.png")
    shapes = []
    assert cli.command(lambda argv: shapes.append(read_image(tmp_path / "large.png").shape))() == 0
    assert shapes == [(5, 5, 3)]


@pytest.mark.parametrize(("backend", "beginning"), [("jax", "KERAS_BACKEND=jax "), (None, "")])
def test_a_command_that_can_be_given_again(backend, beginning, monkeypatch):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    if backend:
        monkeypatch.setenv("KERAS_BACKEND", backend)
    told = cli.command_line("train", ["fcn", "--data", "my pets"])
    assert told == f"{beginning}python tools/train.py fcn --data 'my pets'"


def test_a_tool_prints_nothing_but_its_own_line():
    """In a process of its own: TensorFlow's notes come from C++, before and beside Python's streams."""
    command = [sys.executable, "tools/evaluate.py", "no.keras", "--data", "nuclei"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: no.keras: no such file\n")


def test_nothing_is_said_of_images_of_several_sizes(monkeypatch):
    """TensorFlow warns when functions are traced often, as those that take images of several sizes must be."""
    logger, said = tf.get_logger(), []
    monkeypatch.setattr(logger, "filters", [])
    monkeypatch.setattr(logger, "handlers", [logging.Handler()])
    monkeypatch.setattr(logger.handlers[0], "emit", lambda record: said.append(record.getMessage()))

    def trace_often():
        function = tf.function(lambda number: number)
        for number in range(12):
            function(number)

    trace_often()
    assert any("retracing" in message for message in said)
    said.clear()
    cli.load_keras()
    trace_often()
    logger.warning("something else")
    assert said == ["something else"]


def test_a_closed_pipe_and_a_poor_terminal_are_no_faults(tmp_path):
    tool = (
        "from kseg import cli\n@cli.command\ndef main(argv=None):\n for _ in range(99999): print('細胞核')\n"
        "raise SystemExit(main())"
    )
    command = f"{sys.executable} -c {shlex.quote(tool)} | head -n 1; echo ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(["bash", "-c", command], capture_output=True, env=environment, check=False, timeout=60)
    assert (done.stdout, done.stderr) == (b"???\n141\n", b"")


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is a link to nothing"):
        cli.check_output(tmp_path / "link")
