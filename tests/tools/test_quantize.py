"""tools/quantize.py, with a network that needs no training."""

import json
import re
import shutil
import sys
import tempfile

import keras
import numpy as np
import pytest
from PIL import Image
from tooling import tool

import kseg.export.budget as budget
from kseg import runtime
from kseg.labels import LabelSet
from kseg.training import save_model

DISCS = LabelSet(("ground", "disc"), ((0, 0, 0), (255, 200, 0)))


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    monkeypatch.setattr(budget, "_ROUNDS", 2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Says "disc" where the mean of the colours is above 170, which most pixels of `tiny_data`'s discs are."""
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(2, 3, padding="same", activation="relu", name="mean")(image)
    x = keras.layers.Conv2D(2, 1, name="score")(x)
    network = keras.Model(image, x, name="bright")
    kernel = np.zeros((3, 3, 3, 2))
    kernel[1, 1, :, 0] = 1 / 255 / 3
    kernel[1, 1, 0, 1] = 1 / 255
    network.get_layer("mean").set_weights([kernel, np.zeros(2)])
    network.get_layer("score").set_weights([np.array([[[[0.0, 1.0], [0.0, 0.0]]]]), np.array([170 / 255, 0.0])])
    path = tmp_path_factory.mktemp("model") / "bright.keras"
    save_model(network, path, DISCS)
    return path


@pytest.fixture
def whole(tiny_data, tmp_path):
    """The small data set without splits."""
    folder = tmp_path / "whole"
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
        for split in ("train", "val"):
            for path in (tiny_data / kind / split).iterdir():
                shutil.copy(path, folder / kind / f"{split}{path.name}")
    DISCS.save(folder / "labels.json")
    return folder


def _run(*arguments):
    return tool("quantize")([str(argument) for argument in arguments])


@pytest.mark.parametrize("target", ["size", "latency"])
def test_the_best_file_with_tables_and_pictures(model, tiny_data, tmp_path, capsys, target):
    out = tmp_path / "deeper" / "out"
    assert _run(model, "--data", tiny_data, "--max-miou-drop", 0.02, "--target", target, "--out", out) == 0
    names = {"bright_quantized.tflite", "bright_quantized.tflite.json", "quantized.json"}
    assert {path.name for path in out.iterdir()} == names | {"trade_off.png", "sensitivity.png"}
    content = json.loads((out / "quantized.json").read_text())
    candidates = {one["name"]: one for one in content["candidates"]}
    assert list(candidates) == ["float32", "float16", "dynamic", "int8", "int8_1_in_float", "int16x8"]
    price = {"size": "size_mb", "latency": "latency_ms"}[target]
    inside = [one for one in candidates.values() if one["mean_iou_drop"] <= 0.02 and one["precision"] != "float32"]
    best = min(inside, key=lambda one: (one[price], one["mean_iou_drop"]))
    assert content["best"] == best["name"]
    assert (content["images"], content["size_px"], content["target"]) == (3, [40, 48], target)
    assert {one["layer"] for one in content["costs"]} == {"mean", "score"}

    predictor = runtime.load(out / "bright_quantized.tflite")
    card = predictor.card
    assert (card.precision, card.size_px, card.labels) == (best["precision"], (40, 48), DISCS)
    assert card.parity["mean_iou_file"] == pytest.approx(best["mean_iou"], abs=1e-9)
    assert card.parity["data"] == f"{tiny_data} val"

    printed = capsys.readouterr().out
    for name in (*candidates, "mean IoU", "lost", "Pareto", "layer alone in 8 bits", "score"):
        assert name in printed, "a table without it"
    assert "…" not in printed, "a table that does not fit into the terminal"
    size_mb = (out / "bright_quantized.tflite").stat().st_size / 1e6
    assert re.search(rf"bright_quantized.tflite: {best['name']}, {size_mb:.3f} MB, mean IoU [+-]0\.\d+", printed)
    for name in ("trade_off.png", "sensitivity.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 200
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 20


def test_mean_iou_is_that_of_tools_evaluate(model, tiny_data, tmp_path):
    assert _run(model, "--data", tiny_data, "--out", tmp_path / "out", "--max-miou-drop", 0.5) == 0
    content = json.loads((tmp_path / "out" / "quantized.json").read_text())
    scores = []
    for file in (model, tmp_path / "out" / "bright_quantized.tflite"):
        arguments = [file, "--data", tiny_data, "--split", "val", "--json", tmp_path / "scores.json"]
        assert tool("evaluate")([str(argument) for argument in arguments]) == 0
        scores.append(json.loads((tmp_path / "scores.json").read_text())["mean_iou"])
    best = next(one for one in content["candidates"] if one["name"] == content["best"])
    assert content["mean_iou"] == pytest.approx(scores[0], abs=1e-6)
    assert best["mean_iou"] == pytest.approx(scores[1], abs=1e-6)
    assert 0.8 < scores[0] < 0.99


def test_nothing_fits(model, tiny_data, tmp_path, fails, monkeypatch):
    def worse(*given, real=budget._try):
        candidates, skipped = real(*given)
        candidates = [one for one in candidates if one.precision in ("float32", "int8")]
        return [budget.replace(one, mean_iou_drop=one.mean_iou_drop + 0.03) for one in candidates], skipped

    monkeypatch.setattr(budget, "_try", worse)
    out = tmp_path / "out"
    message = fails("quantize", model, "--data", tiny_data, "--max-miou-drop", 0, "--out", out, code=1)
    assert re.search(
        r"no quantised file loses at most 0\.0 of mean IoU 0\.\d+: the best, int8\w*, loses 0\.0\d+ at", message
    )
    # What was measured stays, a file that was not asked for does not.
    assert {path.name for path in out.iterdir()} == {"quantized.json", "trade_off.png", "sensitivity.png"}
    assert json.loads((out / "quantized.json").read_text())["best"] is None


def test_what_was_left_out_is_told(model, tiny_data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(budget, "_is_too_slow", lambda predictor, *_: predictor.card.precision == "int16x8")
    assert _run(model, "--data", tiny_data, "--out", tmp_path / "out") == 0
    assert "int16x8: left out, takes more than 100 times as long as float32" in capsys.readouterr().out


def test_one_split_calibrates_and_scores(model, whole, tmp_path, fails):
    arguments = [model, "--data", whole, "--splits", "all", "all", "--out", tmp_path / "out"]
    message = fails("quantize", *arguments)
    assert "every labelled image calibrates" in message
    assert "--images" in message
    assert not (tmp_path / "out").exists()
    assert _run(*arguments, "--images", 5) == 0
    card = json.loads((tmp_path / "out" / "bright_quantized.tflite.json").read_text())
    content = json.loads((tmp_path / "out" / "quantized.json").read_text())
    assert content["images"] == card["parity"]["images"] == 4  # of 9, without the 5 that calibrate


def test_another_size(model, tiny_data, tmp_path):
    assert _run(model, "--data", tiny_data, "--size", 32, 32, "--images", 2, "--out", tmp_path / "out") == 0
    assert runtime.load(tmp_path / "out" / "bright_quantized.tflite").size_px == (32, 32)
    assert json.loads((tmp_path / "out" / "quantized.json").read_text())["images"] == 2


def test_a_second_run_takes_the_place_of_the_first(model, tiny_data, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    for size_px in ((40, 48), (32, 32)):
        assert _run(model, "--data", tiny_data, "--size", *size_px, "--out", out) == 0
        assert runtime.load(out / "bright_quantized.tflite").size_px == size_px
    assert (out / "notes.txt").read_text() == "mine"
    assert len(list(out.iterdir())) == 6


@pytest.mark.parametrize("value", ["nan", "-0.01", "1.01", "inf"])
def test_a_budget_that_is_none(model, tmp_path, fails, value):
    # The data does not exist either: only what is looked at first can be told.
    message = fails("quantize", model, "--data", "no_such_folder", f"--max-miou-drop={value}", "--out", tmp_path / "o")
    assert re.fullmatch(r"error: the mean IoU that may be lost is a number from 0 to 1\. Received: \S+", message)
    assert not (tmp_path / "o").exists()


def test_an_out_that_is_a_file_is_told_before_the_work(model, tmp_path, fails):
    (tmp_path / "taken").write_text("mine")
    for out in (tmp_path / "taken", tmp_path / "taken" / "deeper"):
        message = fails("quantize", model, "--data", "no_such_folder", "--out", out)
        assert message == f"error: {out}: cannot be written to: {tmp_path / 'taken'} is a file"
    assert (tmp_path / "taken").read_text() == "mine"


def test_mistakes(model, tiny_data, tmp_path, fails, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    out = tmp_path / "out"
    assert "no_such_folder: no such folder" in fails("quantize", model, "--data", "no_such_folder", "--out", out)
    assert "no.keras: no such file" in fails("quantize", tmp_path / "no.keras", "--data", tiny_data, "--out", out)
    given = ["quantize", model, "--data", tiny_data, "--out", out]
    assert "no such split; there are: train, val" in fails(*given, "--splits", "train", "test")
    assert "no such split; there are: train, val" in fails(*given, "--splits", "test", "val")
    assert "--images must be at least 1. Received: 0" in fails(*given, "--images", 0)
    assert "at least one pixel" in fails(*given, "--size", 0, 32)
    foreign = shutil.copytree(tiny_data, tmp_path / "foreign")
    LabelSet(("sky", "road"), DISCS.colours).save(foreign / "labels.json")
    message = fails("quantize", model, "--data", foreign, "--out", out)
    assert "foreign: the network's classes are called ground, disc, the data's sky, road" in message
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install '.[plots]'" in fails(*given)
    assert not out.exists()
    assert not list(temporary.iterdir())
    with pytest.raises(SystemExit) as stop:
        _run(model, "--data", tiny_data, "--out", out, "--target", "speed")
    assert stop.value.code == 2


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        _run("--help")
    assert stop.value.code == 0
    assert "python tools/quantize.py" in capsys.readouterr().out
