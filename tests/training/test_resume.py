"""A run that was killed and resumed ends like one that was left alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kseg.training.checkpoint import load_model, read_state

ROOT = Path(__file__).resolve().parent.parent.parent
SETTINGS = [
    "filters=4",
    "depth=2",
    "dropout=0.3",
    "crop_px=32,32",
    "batch=2",
    "repeats=6",
    "epochs=4",
    "precision=float32",
    "validate_every=1",
    "warmup_steps=3",
    "elastic_px=2",
    "class_weights=median_frequency",
    "frozen=encode,upsample_2",
    "thaw_after=1",
    "average=0.9",
    "accumulate=2",
    "clip_norm=1",
]

# oneDNN's sums may differ in their last bits from run to run on a busy machine, which 70 steps make visible.
ENVIRONMENT = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}

# Of 4 epochs with 18 batches, 3 validation images and up to 2 files each; chosen by lot. The step that follows an
# epoch's files, and each kind of file (best.keras has odd numbers while the score rises), are among them.
MOMENTS = [
    *(("step", count) for count in (7, 19, 40, 66)),
    *(("validation", count) for count in (2, 8)),
    *(("write", count) for count in (1, 2, 4)),
    ("rename", 2),
]


def _start(data, run, *more):
    settings = [] if "--resume" in more else [word for s in SETTINGS for word in ("--set", s)]
    command = [sys.executable, str(ROOT / "tools/train.py"), "nuclei_unet", "--data", str(data), "--out", str(run)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen([*command, *settings, *more], **streams, text=True, env=ENVIRONMENT)


def _finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def _kill_after_epoch(process, run, epochs):
    """SIGKILL in the epoch that follows, as soon as `last.keras` tells that `epochs` are done."""
    last = run / "last.keras"
    for _ in range(6000):
        assert process.poll() is None, process.communicate()[0]
        if last.exists() and read_state(last)["epoch"] + 1 >= epochs:
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_kill_and_resume_give_the_same_weights(tiny_data, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    first = _start(tiny_data, killed)
    _kill_after_epoch(first, killed, epochs=2)
    resumed = _finish(_start(tiny_data, killed, "--resume"))
    assert "Class weights (median_frequency): ground" in resumed
    assert "Resuming after epoch" in resumed
    _finish(_start(tiny_data, whole))

    expected, found = (load_model(run / "last.keras")[0] for run in (whole, killed))
    for ours, theirs in zip(expected.weights, found.weights, strict=True):
        np.testing.assert_allclose(np.asarray(theirs), np.asarray(ours), rtol=0, atol=1e-5)
    assert read_state(whole / "last.keras")["seeds"] == read_state(killed / "last.keras")["seeds"]
    losses = [[entry["loss"] for entry in read_state(run / "last.keras")["history"]] for run in (whole, killed)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert len(losses[1]) == 4
    for name in ("best.keras", "last.keras", "recipe.json", "history.csv", "scores.json", "curve.png", "iou.png"):
        assert (killed / name).is_file(), name
    assert list((killed / "logs").iterdir())


@pytest.fixture(scope="module")
def left_alone(tiny_data, tmp_path_factory):
    run = tmp_path_factory.mktemp("alone") / "run"
    _finish(_start(tiny_data, run))
    return run


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "count"), MOMENTS)
def test_killed_at_any_moment(moment, count, left_alone, tiny_data, tmp_path):
    run = tmp_path / "run"
    script = Path(__file__).with_name("kill_at.py")
    settings = [word for s in SETTINGS for word in ("--set", s)]
    arguments = ["nuclei_unet", "--data", str(tiny_data), "--out", str(run)]
    command = [sys.executable, str(script), moment, str(count), *arguments, *settings]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=ENVIRONMENT)
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    _finish(_start(tiny_data, run, "--resume"))
    for name in ("last.keras", "best.keras"):
        expected, found = (load_model(folder / name)[0].weights for folder in (left_alone, run))
        for ours, theirs in zip(expected, found, strict=True):
            np.testing.assert_allclose(np.asarray(theirs), np.asarray(ours), rtol=0, atol=1e-5)
    left = {path.name for path in run.iterdir()}
    assert left == {path.name for path in left_alone.iterdir()}, "temporary files stay behind"
