"""Timing of network files. Never of times: they are what they are on the day."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf2onnx
from ai_edge_litert.interpreter import Interpreter

from kseg.errors import CheckError, InputError
from kseg.evaluation import benchmark, operators, runners, tables, timing
from kseg.labels import LabelSet
from kseg.runtime.chatter import muted
from kseg.training import save_model

SIZE = (24, 32)
QUICK = benchmark.Settings(threads=1, runs=4, warmup=1)


def _network(image):
    generator = np.random.default_rng(0)
    kernels = [generator.normal(0, 0.2, shape).astype(np.float32) for shape in ((3, 3, 3, 40), (3, 3, 40, 5))]
    small = tf.nn.relu(tf.nn.conv2d(image / 128.0 - 1.0, kernels[0], 2, "SAME"))
    scores = tf.nn.conv2d(small, kernels[1], 1, "SAME")
    return tf.image.resize(scores, tf.shape(image)[1:3])


def _function(size_px=SIZE, batch=1):
    spec = [tf.TensorSpec((batch, *size_px, 3), tf.float32, name="image")]
    return tf.function(_network, input_signature=spec), spec


def _write_tflite(path, precision="float32", size_px=SIZE, batch=1):
    """A file without a card, by the converter as anyone would use it."""
    function, _ = _function(size_px, batch)
    with muted():
        concrete = function.get_concrete_function()
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], tf.Module())
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if precision in ("int8", "int16x8"):
            ops = tf.lite.OpsSet
            sixteen = ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
            converter.target_spec.supported_ops = [ops.TFLITE_BUILTINS_INT8 if precision == "int8" else sixteen]
            images = [runners.picture((1, *SIZE, 3), "float32"), np.zeros((1, *SIZE, 3), np.float32)]
            converter.representative_dataset = lambda: ([image] for image in images)
        path.write_bytes(converter.convert())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("networks")


@pytest.fixture(scope="module")
def tflite(folder):
    return _write_tflite(folder / "net.tflite")


@pytest.fixture(scope="module")
def any_size(folder):
    """A .tflite file that leaves its batch and its size open."""
    return _write_tflite(folder / "any_size.tflite", size_px=(None, None), batch=None)


@pytest.fixture(scope="module")
def onnx(folder):
    function, spec = _function()
    with muted():
        tf2onnx.convert.from_function(function, input_signature=spec, opset=17, output_path=str(folder / "net.onnx"))
    return folder / "net.onnx"


@pytest.fixture
def one_start(monkeypatch):
    monkeypatch.setattr(benchmark, "_COLD_STARTS", 1)


def test_files_side_by_side(tflite, onnx, one_start):
    told = []
    first, second = benchmark.measure([tflite, onnx], QUICK, told.append)
    assert (first.file, second.file) == (str(tflite), str(onnx))
    assert first.inputs == second.inputs == (((1, *SIZE, 3), "float32"),)
    assert first.size_mb == tflite.stat().st_size / 1e6
    assert (first.ratio, first.ratio_low, first.ratio_high) == (1, 1, 1)
    for one in (first, second):
        assert one.runs == 4
        assert 0 < one.median_ms <= one.p90_ms
        assert 0 < one.ratio_low <= one.ratio <= one.ratio_high
        assert one.cold_start_ms == one.load_ms + one.first_run_ms
        assert 0 < one.own_mib < one.peak_mib
        assert one.fully_accelerated is None
    assert told[0] == "net.tflite: cold start and memory (1 of 2)"
    headings, rows = tables.times([first, second])
    assert [row[0] for row in rows] == ["[1]", "[2]"]
    assert {len(row) for row in rows} == {len(headings)}
    assert tables.describe(first) == f"{tflite}: 24x32x3 float32, {first.size_mb:.2f} MB"


def test_keras(folder, one_start):
    image = keras.Input((None, None, 3))
    model = keras.Model(image, keras.layers.Conv2D(2, 3, padding="same")(image))
    save_model(model, folder / "net.keras", LabelSet.numbered(2))
    (one,) = benchmark.measure([folder / "net.keras"], benchmark.Settings(1, 2, 0, 9.0, (20, 30)))
    assert one.inputs == (((1, 20, 30, 3), "float32"),)
    assert one.runs == 2


def test_any_size(any_size, one_start):
    with pytest.raises(InputError, match="say one with --size"):
        benchmark.measure([any_size], QUICK)
    (one,) = benchmark.measure([any_size], benchmark.Settings(1, 2, 0, 9.0, (20, 30)))
    assert one.inputs == (((1, 20, 30, 3), "float32"),)


def test_a_large_networks_second_file_counts(tmp_path, onnx, one_start):
    path = tmp_path / "net.onnx"
    path.write_bytes(onnx.read_bytes())
    (tmp_path / "net.onnx.data").write_bytes(bytes(500_000))
    (one,) = benchmark.measure([path], QUICK)
    assert one.size_mb == pytest.approx(0.5 + onnx.stat().st_size / 1e6)


def test_memory_is_the_files_not_the_callers(tflite, one_start):
    held = np.ones(400 * 2**20, np.uint8)  # a process takes over its parent's peak in `getrusage`
    (one,) = benchmark.measure([tflite], QUICK)
    assert one.peak_mib < 300 < held.nbytes / 2**20


class TestInTurn:
    @pytest.fixture
    def log(self, monkeypatch):
        log = []

        def open_runner(path, threads, size_px):
            return runners.Runner(lambda: log.append(path), ())

        monkeypatch.setattr(timing, "open_runner", open_runner)
        return log

    def test_each_runs_once_a_round_and_the_order_turns(self, log):
        rounds = timing.together(print, ["a", "b", "c"], 1, None, runs=4, warmup=1, seconds=9.0)
        assert np.shape(rounds) == (4, 3)
        assert "".join(log) == "abc" + "abc" + "cba" + "bca" + "acb"

    def test_ends_when_the_time_is_over(self, log):
        assert len(timing.together(print, ["a"], 1, None, runs=99, warmup=0, seconds=0.0)) == timing.LEAST_ROUNDS
        assert len(timing.together(print, ["a"], 1, None, runs=2, warmup=0, seconds=0.0)) == 2


class TestPicture:
    def test_is_smooth_and_fills_the_range(self):
        values = runners.picture((1, 64, 96, 3), "uint8").astype(int)
        assert values.min() < 30
        assert values.max() > 225
        assert np.abs(np.diff(values, axis=1)).mean() < 20  # white noise: 85
        np.testing.assert_array_equal(values, runners.picture((1, 64, 96, 3), "uint8"))

    def test_in_every_form(self):
        last = runners.picture((2, 8, 12, 3), "float32")
        np.testing.assert_array_equal(runners.picture((2, 3, 8, 12), "float32"), last.transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(runners.picture((2, 8, 12, 3), "int8"), last - 128)
        assert runners.picture((1, 7), "int32").shape == (1, 7)


PRECISIONS = ("float32", "float16", "dynamic", "int8", "int16x8")


class TestOperators:
    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_each_alone_gives_what_it_gives_in_the_network(self, folder, precision):
        path = _write_tflite(folder / f"{precision}.tflite", precision)
        # XNNPACK rounds by another rule than the operators without it.
        self._check(path, tolerance=1 if precision in ("int8", "int16x8") else 1e-4)

    def test_of_a_file_for_any_size(self, any_size):
        self._check(any_size, tolerance=1e-4)

    def _check(self, path, tolerance):
        kept = operators._run_and_kept(path, 1, SIZE)
        cutter = operators._Cutter(path, kept)
        assert len(cutter.running) >= 3
        for index in cutter.running:
            content, inputs = cutter.cut(index)
            with muted():
                single = Interpreter(model_content=content)
                single.allocate_tensors()
            for place, values in inputs.items():
                single.set_tensor(place, values)
            single.invoke()
            expected = kept.get_tensor(int(cutter._graph.operators[index].outputs[0]))
            found = single.get_tensor(single.get_output_details()[0]["index"])
            np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0)

    def test_table_of_a_tflite_file(self, tflite):
        found = benchmark.per_operator(tflite, QUICK)
        assert {"CONV_2D", "RESIZE_BILINEAR"} < {row["operator"] for row in found.rows}
        assert sum(row["share"] for row in found.rows) == pytest.approx(1)
        assert found.sum_ms == pytest.approx(sum(row["ms"] for row in found.rows))
        assert [row["ms"] for row in found.rows] == sorted((row["ms"] for row in found.rows), reverse=True)
        convolutions = next(group for group in found.groups() if group["operator"] == "CONV_2D")
        assert convolutions["count"] == 2
        assert "1x24x32x5 float32" in {row["output"] for row in found.rows}
        assert found.to_dict()["groups"] == found.groups()

    def test_table_of_an_onnx_file(self, onnx):
        found = benchmark.per_operator(onnx, QUICK)
        assert {"Conv", "Mul"} < {row["operator"] for row in found.rows}
        assert sum(row["share"] for row in found.rows) == pytest.approx(1)
        assert found.whole_ms > 0

    def test_constants_are_not_timed(self, folder):
        """The weights of a float16 file pass through operators that run once."""
        path = _write_tflite(folder / "halves.tflite", "float16")
        found = benchmark.per_operator(path, QUICK)
        assert "DEQUANTIZE" not in {row["operator"] for row in found.rows}

    def test_one_that_does_not_run_alone_is_told(self):
        assert operators._alone(b"no file", {}, 1) is None
        rows = [
            {"index": 3, "operator": "WHILE", "output": "1 float32", "ms": None, "share": None},
            {"index": 0, "operator": "CONV_2D", "output": "1x2x2x4 float32", "ms": 2.0, "share": 1.0},
        ]
        found = benchmark.Operators("net.tflite", 4.0, rows)
        assert tables.operators(found)[1][0] == ("WHILE", "3", "1 float32", "-", "-")
        assert tables.groups(found)[1][0] == ("CONV_2D", "1", "2.000", "100.0%")
        assert tables.describe_operators(found).endswith("take 2.00 ms, 50% of the whole's 4.00 ms")

    def test_keras_has_none(self, tmp_path):
        (tmp_path / "net.keras").write_bytes(b"")
        with pytest.raises(InputError, match=r"net\.keras: only the operators of \.tflite and \.onnx files"):
            benchmark.per_operator(tmp_path / "net.keras", QUICK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": 0}, "runs must be at least 1. Received: 0"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"warmup": -1}, "warmup must be at least 0"),
        ({"seconds": float("nan")}, "seconds must be at least 0"),
        ({"size_px": (0, 5)}, "the size must be at least 1 x 1. Received: 0 x 5"),
    ],
)
def test_settings_out_of_range(change, message):
    with pytest.raises(InputError, match=message):
        benchmark.Settings(**change)


def test_files_that_cannot_be_timed(tmp_path, tflite):
    for name, message in (("net.pb", "only .tflite, .onnx, .keras files"), ("none.onnx", "no such file")):
        with pytest.raises(InputError, match=message):
            benchmark.measure([tflite, tmp_path / name], QUICK)
    with pytest.raises(InputError, match="no file to time"):
        benchmark.measure([], QUICK)
    for name in ("foreign.tflite", "foreign.onnx"):
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
        with pytest.raises(InputError, match=rf"{name}: .*not an? (TFLite|ONNX) file"):
            benchmark.measure([tmp_path / name], QUICK)
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(tflite.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"cut\.tflite: LiteRT cannot load it"):
        benchmark.measure([cut], QUICK)


def test_a_process_that_is_killed_is_told(tflite, tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(CheckError, match=r"net\.tflite: the process that ran it was killed by signal 9"):
        benchmark.measure([tflite], QUICK)


WITHOUT_KERAS = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime", "jax", "matplotlib"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
from kseg.evaluation import benchmark, tables, timing
print(sorted(timing.alone(print, sys.argv[1], 1, None)))
"""


def test_a_board_without_keras_can_time(tflite):
    root = Path(benchmark.__file__).parents[2]
    command = [sys.executable, "-W", "error", "-c", WITHOUT_KERAS, str(tflite)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    assert "peak_mib" in done.stdout
