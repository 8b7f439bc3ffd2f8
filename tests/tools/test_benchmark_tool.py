"""tools/benchmark.py, with a network of one operator."""

import json
import sys
import types

import pytest
import tensorflow as tf
from tooling import tool

from kseg.evaluation import benchmark
from kseg.runtime.chatter import muted


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "pool.tflite"
    function = tf.function(
        lambda image: tf.nn.max_pool2d(image, 2, 2, "SAME"), input_signature=[tf.TensorSpec((1, 20, 30, 3), tf.float32)]
    )
    with muted():
        concrete = function.get_concrete_function()
        path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete], tf.Module()).convert())
    return path


def test_tables_and_json(file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "_COLD_STARTS", 1)
    arguments = [file, file, "--runs", 3, "--warmup", 0, "--threads", 1, "--per-op", "--json", tmp_path / "times.json"]
    assert tool("benchmark")([str(argument) for argument in arguments]) == 0
    captured = capsys.readouterr()
    assert f"[2] {file}: 20x30x3 float32" in captured.out
    assert "MAX_POOL_2D" in captured.out
    assert "of the whole's" in captured.out
    assert "cold start and memory (2 of 2)" in captured.err
    content = json.loads((tmp_path / "times.json").read_text())
    assert [one["file"] for one in content["files"]] == [str(file)] * 2
    assert content["files"][1]["runs"] == 3
    assert content["operators"][0]["rows"][0]["operator"] == "MAX_POOL_2D"
    assert content["environment"]["settings"]["threads"] == 1


@pytest.mark.parametrize(("taken", "said"), [(True, ", fully accelerated"), (False, ", not fully"), (None, " MB\n")])
def test_says_whether_a_delegate_takes_all(file, capsys, monkeypatch, taken, said):
    monkeypatch.setattr(benchmark, "_COLD_STARTS", 1)
    inspect = types.SimpleNamespace(fully_accelerated=lambda path: taken)
    monkeypatch.setitem(sys.modules, "kseg.export.inspect", inspect)
    assert tool("benchmark")([str(file), "--runs", "1", "--warmup", "0"]) == 0
    assert said in capsys.readouterr().out


def test_mistakes(file, tmp_path, fails):
    assert "none.tflite: no such file" in fails("benchmark", file, tmp_path / "none.tflite")
    assert "only .tflite, .onnx, .keras files" in fails("benchmark", tmp_path / "net.pt")
    assert "runs must be at least 1. Received: 0" in fails("benchmark", file, "--runs", 0)
    assert "its folder does not exist" in fails("benchmark", file, "--json", tmp_path / "no" / "times.json")
    foreign = tmp_path / "foreign.tflite"
    foreign.write_bytes(b"somebody else's")
    assert "foreign.tflite: not a TFLite file" in fails("benchmark", foreign)
    keras_file = tmp_path / "net.keras"
    keras_file.write_bytes(b"")
    assert "only the operators of .tflite and .onnx files" in fails("benchmark", file, keras_file, "--per-op")


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        tool("benchmark")(["--help"])
    assert stop.value.code == 0
    assert "python tools/benchmark.py" in capsys.readouterr().out
