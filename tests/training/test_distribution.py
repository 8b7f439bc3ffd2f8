"""Several devices and several processes: each run ends like that of one device, or with an error in bounded time."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from tooling import TINY, read_events, tool

from kseg.errors import InputError
from kseg.training import Placement, place
from kseg.training.checkpoint import read_state
from kseg.training.distribution import HEARTBEAT_S

ROOT = Path(__file__).resolve().parent.parent.parent
SETTINGS = [
    "filters=2",
    "depth=1",
    "crop_px=32,32",
    "batch=4",
    "repeats=2",
    "epochs=4",
    "precision=float32",
    "validate_every=1",
    # Its steps are in proportion to the gradients: Adam's would turn rounding errors of zero gradients into weights.
    "optimizer=sgd",
    "learning_rate=0.05",
    "warmup_steps=2",
]
# What depends on the batch as a whole, and on random numbers: on JAX this too is as on one device.
WHOLE_BATCH = ["loss=cross_entropy,soft_dice", "batch_normalization=true", "dropout=0.3"]
# What changes the optimizer, the weights that are kept, and the number of outputs.
CRAFT = [
    "loss=cross_entropy",
    "frozen=encode",
    "thaw_after=2",
    "average=0.9",
    "clip_norm=0.1",
    "auxiliary=upsample_1",
]
WAIT_S = 600  # for two slow cores that others use too


# --- Arguments and environment ----------------------------------------------------------------------------------------


@pytest.fixture
def on_jax(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")


@pytest.mark.usefixtures("on_jax")
def test_arguments_and_environment_say_the_same():
    expected = Placement("hosts", "node1:4321", 4, 3)
    assert place("hosts", "node1:4321", 4, 3, environment={}) == expected
    names = ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
    values = ("node1:4321,node2:4321,node3:4321,node4:4321", "4", "3")
    keras_names = {f"KERAS_DISTRIBUTION_{name}": value for name, value in zip(names, values, strict=True)}
    assert place("hosts", environment=keras_names) == expected
    assert place("hosts", process=0, environment=keras_names) == Placement("hosts", "node1:4321", 4, 0)
    assert not expected.is_chief
    assert expected.shard == (3, 4)


@pytest.mark.usefixtures("on_jax")
@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node7", "node7"),
        ("node7,other2", "node7"),
        ("node[007-015,020]", "node007"),
        ("node[3,5]-ib,other[1-2]", "node3-ib"),
    ],
)
def test_slurm_tells_the_place(nodes, first):
    variables = {"SLURM_NTASKS": "3", "SLURM_PROCID": "1", "SLURM_JOB_ID": "8195", "SLURM_STEP_NODELIST": nodes}
    assert place("hosts", environment=variables) == Placement("hosts", f"{first}:61443", 3, 1)


@pytest.mark.usefixtures("on_jax")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("hosts",), "--coordinator|--processes is missing"),
        (("hosts", None, 2, 0), "--coordinator HOST:PORT is missing"),
        (("hosts", "node1", 2, 0), "must be HOST:PORT. Received: node1"),
        (("hosts", "node1:70000", 2, 0), "must be HOST:PORT"),
        (("hosts", "node1:1", 0, 0), "--processes must be at least 1"),
        (("hosts", "node1:1", 2, 2), "--process must be in 0 .. 1"),
        (("hosts", "node1:1", 2, -1), "--process must be in 0 .. 1"),
        (("hosts", "node1:1", "two", 1), "--processes must be a whole number"),
        (("mirrored", None, 2, None), "belong to --distribute hosts"),
        ((None, "node1:1", None, None), "belong to --distribute hosts"),
        (("towers",), "must be one of mirrored, hosts"),
    ],
)
def test_what_does_not_fit_together_is_told(arguments, message):
    with pytest.raises(InputError, match=message):
        place(*arguments, environment={})


def test_hosts_needs_jax(tiny_data, tmp_path, fails):
    line = fails("train", "nuclei_unet", "--data", tiny_data, "--out", tmp_path / "run", "--distribute", "hosts")
    assert "set KERAS_BACKEND=jax" in line
    assert not (tmp_path / "run").exists()


# --- Real processes ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def start(tiny_data, tmp_path_factory):
    """Start train_in_process.py `count` times: returns [(process, file of its numbers)]; ends them after the test."""
    started = []
    folder = tmp_path_factory.mktemp("processes")

    def run(run, *arguments, count=1, backend="jax", environment=None, settings=SETTINGS):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        new = []
        for process in range(count):
            variables = {
                "KERAS_BACKEND": backend,
                "JAX_PLATFORMS": "cpu",
                "PYTHONPATH": str(ROOT),
                "KERAS_DISTRIBUTION_JOB_ADDRESSES": address,
                "KERAS_DISTRIBUTION_NUM_PROCESSES": str(count),
                "KERAS_DISTRIBUTION_PROCESS_ID": str(process),
                # XLA compiles for half a minute what these networks compute in a second.
                "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
                **(environment or {}),
            }
            out = folder / f"{len(started)}.npz"
            script = Path(__file__).with_name("train_in_process.py")
            own = settings[process] if isinstance(settings[0], list) else settings
            command = [sys.executable, script, tiny_data, run, out, *arguments, "--set", *own]
            with open(out.with_suffix(".log"), "w") as log:
                made = subprocess.Popen(command, env={**os.environ, **variables}, stdout=log, stderr=log)
            started.append(made)
            new.append((made, out))
        return new

    yield run
    for process in started:
        process.kill()
        process.wait()


def _log(out):
    return out.with_suffix(".log").read_text()


def _numbers(started):
    """What each process ended with, once all have ended well: [(weights, history)]."""
    found = []
    for process, out in started:
        assert process.wait(WAIT_S) == 0, _log(out)
        with np.load(out) as file:
            weights = {name: file[name] for name in file.files if name != "history"}
            found.append((weights, json.loads(str(file["history"]))))
    return found


def _assert_close(found, expected, tolerance=2e-5):
    for name, value in expected[0].items():
        np.testing.assert_allclose(found[0][name], value, rtol=0, atol=tolerance, err_msg=name, strict=True)
    for ours, theirs in zip(found[1], expected[1], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-3)  # scores count pixels: one that is undecided may fall


@pytest.fixture(scope="module")
def alone(start, tmp_path_factory):
    """The numbers of one process with one device, on JAX."""
    run = tmp_path_factory.mktemp("runs") / "alone"
    return _numbers(start(run, settings=SETTINGS + WHOLE_BATCH))[0]


@pytest.fixture(scope="module")
def together(start, alone, tmp_path_factory):
    """(run folder, the numbers of its two processes)."""
    run = tmp_path_factory.mktemp("runs") / "together"
    return run, _numbers(start(run, "--distribute", "hosts", count=2, settings=SETTINGS + WHOLE_BATCH))


@pytest.mark.slow
def test_mirrored_on_tensorflow_is_as_one_device(start, tmp_path):
    """For a mean over pixels. (Not for soft Dice, batch normalisation, dropout: see kseg.training.distribution.)"""
    settings = [*SETTINGS, "loss=cross_entropy"]
    one = start(tmp_path / "one", backend="tensorflow", settings=settings)
    two = start(tmp_path / "two", "--distribute=mirrored", "--devices=2", backend="tensorflow", settings=settings)
    [expected], [found] = _numbers(one), _numbers(two)
    assert "Devices: 2, 2 crops of a step for each" in _log(two[0][1])
    _assert_close(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_the_craft_of_training_on_two_devices(backend, start, tmp_path):
    settings = SETTINGS + CRAFT + (["accumulate=2"] if backend == "jax" else [])
    one = start(tmp_path / "one", backend=backend, settings=settings)
    devices = ["--devices=2"] if backend == "tensorflow" else []
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"} if backend == "jax" else {}
    arguments = ("--distribute=mirrored", *devices)
    two = start(tmp_path / "two", *arguments, backend=backend, environment=environment, settings=settings)
    [expected], [found] = _numbers(one), _numbers(two)
    assert "Thawing encode" in _log(two[0][1])
    _assert_close(found, expected)
    _assert_same_pictures(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_the_craft_of_training_in_two_processes(start, tmp_path):
    settings = [*SETTINGS, *CRAFT, "accumulate=2"]
    expected = _numbers(start(tmp_path / "one", settings=settings))[0]
    found = _numbers(start(tmp_path / "two", "--distribute", "hosts", count=2, settings=settings))
    _assert_same_and_as_alone(found, expected)
    _assert_same_pictures(tmp_path / "one", tmp_path / "two")


def _assert_same_pictures(run, other):
    """In TensorBoard: the overlays, which are of the average of the weights, and the confusion matrices."""
    expected, found = (read_events(folder / "logs") for folder in (run, other))
    pictures = [tag for tag in expected if tag.startswith("overlays/") or tag == "confusion_matrix"]
    assert len(pictures) == 4
    for tag in pictures:
        assert sorted(found[tag]) == [1, 2, 3, 4]
        for epoch, picture in found[tag].items():
            # A pixel that is undecided may fall.
            assert (picture == expected[tag][epoch]).mean() > 0.99, (tag, epoch)


@pytest.mark.slow
def test_mirrored_on_jax_is_as_one_device(start, alone, tmp_path):
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    settings = SETTINGS + WHOLE_BATCH
    two = start(tmp_path / "two", "--distribute=mirrored", environment=devices, settings=settings)
    [found] = _numbers(two)
    assert "Devices: 2, 2 crops of a step for each" in _log(two[0][1])
    _assert_close(found, alone)


def _assert_same_and_as_alone(found, alone):
    for weights, history in found[1:]:
        for name, value in found[0][0].items():
            np.testing.assert_array_equal(weights[name], value, err_msg=name)
        without_time = [{k: v for k, v in entry.items() if k != "seconds"} for entry in history]
        assert without_time == found[0][1]
    _assert_close(found[0], alone)


@pytest.mark.slow
def test_two_processes_are_as_one(together, alone):
    run, found = together
    _assert_same_and_as_alone(found, alone)
    files = ["best.keras", "history.csv", "last.keras", "logs", "recipe.json", "run.json"]
    assert sorted(p.name for p in run.iterdir()) == files
    assert len(list((run / "logs").iterdir())) == 1


@pytest.mark.slow
def test_four_processes_are_as_one(start, alone, tmp_path):
    """With three validation images: one process has none."""
    started = start(tmp_path / "run", "--distribute", "hosts", count=4, settings=SETTINGS + WHOLE_BATCH)
    _assert_same_and_as_alone(_numbers(started), alone)
    assert all("Epoch" not in _log(out) for _, out in started[1:])  # one process prints


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1], ids=["chief", "worker"])
def test_a_killed_process_stops_the_others_and_resume_goes_on(victim, start, together, tmp_path):
    """The bound is HEARTBEAT_S, for silence; here connections break, which takes seconds. 30 more for slow cores."""
    run, settings = tmp_path / "run", SETTINGS + WHOLE_BATCH
    started = start(run, "--distribute", "hosts", count=2, settings=settings)
    deadline = time.monotonic() + WAIT_S
    while not (run / "last.keras").exists():
        assert started[0][0].poll() is None, _log(started[0][1])
        assert time.monotonic() < deadline, _log(started[0][1])
        time.sleep(0.02)
    started[victim][0].send_signal(signal.SIGKILL)
    other, out = started[1 - victim]
    assert other.wait(HEARTBEAT_S + 30) not in (0, None)
    # Ours, or where JAX's own guard was first, its.
    assert "go on with --resume" in _log(out) or "Terminating process because" in _log(out)
    assert not out.exists()
    assert read_state(run / "last.keras")["epoch"] < 3

    resumed = start(run, "--distribute", "hosts", "--resume", count=2)
    found = _numbers(resumed)
    assert "Resuming after epoch" in _log(resumed[0][1])
    _assert_same_and_as_alone(found, together[1][0])


@pytest.mark.slow
def test_processes_must_train_the_same(start, tmp_path):
    started = start(tmp_path / "run", "--distribute=hosts", count=2, settings=[SETTINGS, [*SETTINGS, "seed=1"]])
    for process, out in started:
        assert process.wait(WAIT_S) == 2, _log(out)
    assert "error: process 1 has another recipe" in _log(started[0][1]) + _log(started[1][1])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_batch_that_the_devices_cannot_share(start, tmp_path):
    arguments = ("--distribute=mirrored", "--devices=2")
    settings = [*SETTINGS, "batch=3"]
    [(process, out)] = start(tmp_path / "run", *arguments, backend="tensorflow", settings=settings)
    assert process.wait(WAIT_S) == 2, _log(out)
    assert "`batch` must be a multiple of the number of devices, 2. Received: 3" in _log(out)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_jax_trained_tensorflow_exports(tiny_data, tmp_path):
    run, file = tmp_path / "run", tmp_path / "disc.tflite"
    data = str(tiny_data)
    command = [sys.executable, ROOT / "tools/train.py", "nuclei_unet", "--data", tiny_data, "--out", run, *TINY]
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stderr
    assert "Keras on jax" in done.stdout
    # The export compares the file with the network, on TensorFlow, and fails if they differ.
    assert keras.backend.backend() == "tensorflow"
    target = ["--out", str(tmp_path), "--name", "disc", "--format", "tflite"]
    assert tool("export")([str(run / "best.keras"), *target, "--verify", data]) == 0
    jax_scores, scores = json.loads((run / "scores.json").read_text()), tmp_path / "scores.json"
    assert tool("evaluate")([str(file), "--data", data, "--json", str(scores)]) == 0
    assert json.loads(scores.read_text())["mean_iou"] == pytest.approx(jax_scores["mean_iou"], abs=0.01)
