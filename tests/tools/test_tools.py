"""The tools on their good days: from images to a trained network, scores, pictures and files."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tooling import TINY, TOOLS, tool

from kseg import data
from kseg.training import read_history


def test_train_leaves_a_whole_run(tiny_run):
    history = read_history(tiny_run)
    assert [entry["epoch"] for entry in history] == [1, 2]
    assert history[-1]["loss"] < history[0]["loss"]
    assert json.loads((tiny_run / "recipe.json").read_text())["filters"] == 4
    scores = json.loads((tiny_run / "scores.json").read_text())
    best = max(entry["val_mean_iou"] for entry in history)
    assert scores["mean_iou"] == pytest.approx(best, abs=1e-4), "scores.json is not best.keras's"
    for name in ("best.keras", "last.keras", "curve.png", "iou.png"):
        assert (tiny_run / name).stat().st_size > 1000
    assert any(path.name.startswith("events.") for path in (tiny_run / "logs").iterdir())


def test_evaluate_writes_json_and_pictures(tiny_run, tiny_data, tmp_path, capsys):
    arguments = [tiny_run / "best.keras", "--data", tiny_data, "--split", "val"]
    arguments += ["--json", tmp_path / "s.json", "--pictures", tmp_path / "p"]
    assert tool("evaluate")([str(a) for a in arguments]) == 0
    scores = json.loads((tmp_path / "s.json").read_text())
    assert set(scores) >= {"images", "pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou", "iou"}
    assert np.sum(scores["confusion_matrix"]) == 3 * 40 * 48
    assert set(scores["iou"]) == {"ground", "disc"}
    names = {path.name for path in (tmp_path / "p").iterdir()}
    assert names == {"0.png", "1.png", "2.png", "iou_per_class.png", "confusion_matrix.png"}
    assert "disc" in capsys.readouterr().out


def test_predict_keeps_size_indices_and_palette(tiny_run, tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (37, 53, 3)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    Image.fromarray(image[:1, :1]).save(tmp_path / "dot.png")
    (tmp_path / "notes.txt").write_text("no image")
    out = tmp_path / "out"
    arguments = [tiny_run / "best.keras", tmp_path, "--out", out]  # a folder: the images in it
    assert tool("predict")([str(a) for a in arguments]) == 0
    with Image.open(out / "photo.png") as mask, Image.open(out / "photo_overlay.png") as overlay:
        assert (mask.mode, mask.size, overlay.size) == ("P", (53, 37), (53, 37))
        assert mask.getpalette()[3:6] == [255, 200, 0]
        assert set(np.unique(np.array(mask))) <= {0, 1}
    with Image.open(out / "dot.png") as mask:
        assert mask.size == (1, 1)


@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_predict_needs_no_keras_for_exported_files(form, tmp_path):
    """The first command after cloning; Keras would take seconds to import."""
    code = f"""
import sys
sys.modules.update(dict.fromkeys(("keras", "tensorflow", "jax", "tf2onnx", "matplotlib")))
sys.path.insert(0, {str(TOOLS)!r})
import predict
sys.exit(predict.main(sys.argv[1:]))
"""
    model, image = TOOLS.parent / f"exported/nuclei_unet_int8.{form}", Path(data.nuclei("val").files(0)[0])
    command = [sys.executable, "-W", "error", "-c", code, *map(str, (model, image, "--out", tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert np.asarray(Image.open(tmp_path / f"{image.stem}.png")).max() == 1


def test_windows_flips_and_scales_reach_the_network(tiny_run, tiny_data, tmp_path):
    """Windows without overlap and other views tell nearly the same, never quite: so they were there."""

    def scores(*options):
        arguments = [tiny_run / "best.keras", "--data", tiny_data, "--json", tmp_path / "s.json", *options]
        assert tool("evaluate")([str(a) for a in arguments]) == 0
        return json.loads((tmp_path / "s.json").read_text())

    plain = scores()
    for options in (
        ("--window", "32x16", "--overlap", "0"),
        ("--window", "32", "--flips", "all"),
        ("--flips", "horizontal", "--scales", "0.75,1,1.25"),
    ):
        found = scores(*options)
        assert found["mean_iou"] == pytest.approx(plain["mean_iou"], abs=0.1)
        assert found["confusion_matrix"] != plain["confusion_matrix"], f"{options} change nothing"
    image = tiny_data / "images/val/0.png"
    out = tmp_path / "out"
    arguments = [tiny_run / "best.keras", image, "--out", out, "--window", "32", "--flips", "horizontal"]
    assert tool("predict")([str(a) for a in arguments]) == 0
    with Image.open(out / "0.png") as mask:
        assert mask.size == (48, 40)


def test_evaluate_scores_boundaries(tiny_run, tiny_data, tmp_path, capsys):
    pytest.importorskip("skimage")
    arguments = [tiny_run / "best.keras", "--data", tiny_data, "--json", tmp_path / "s.json", "--boundaries", "disc"]
    assert tool("evaluate")([str(a) for a in arguments]) == 0
    found = json.loads((tmp_path / "s.json").read_text())["boundaries"]
    assert found["images"] == 3
    assert len(found["thresholds"]) == len(found["pixel_error"]) == len(found["v_rand"]) == 9
    assert found["best"]["pixel_error"] < 0.2
    assert "V_rand" in capsys.readouterr().out


@pytest.mark.parametrize(("form", "precision"), [("tflite", "float32"), ("tflite", "int8"), ("onnx", "float32")])
def test_exported_files_score_like_keras(tiny_run, tiny_data, tmp_path, form, precision):
    arguments = [tiny_run / "best.keras", "--out", tmp_path, "--name", "net", "--format", form]
    arguments += ["--precision", precision, "--calibrate", tiny_data, "--verify", tiny_data]
    assert tool("export")([str(a) for a in arguments]) == 0
    card = json.loads((tmp_path / f"net.{form}.json").read_text())
    assert card["input"]["shape"] == [1, 40, 48, 3]
    assert card["labels"]["names"] == ["ground", "disc"]
    assert card["parity"]["images"] == 3
    assert {path.name for path in tmp_path.iterdir()} == {f"net.{form}", f"net.{form}.json"}
    scores = tmp_path / "s.json"
    evaluate = [tmp_path / f"net.{form}", "--data", tiny_data, "--json", scores]
    assert tool("evaluate")([str(a) for a in evaluate]) == 0
    ours = json.loads((tiny_run / "scores.json").read_text())["mean_iou"]
    tolerance = 1e-4 if precision == "float32" else 0.03
    assert json.loads(scores.read_text())["mean_iou"] == pytest.approx(ours, abs=tolerance)


@pytest.mark.slow
def test_a_network_fine_tuned_for_8_bits_gives_its_files_numbers(tiny_run, tiny_data, tmp_path, fails):
    run = tmp_path / "aware"
    settings = [*TINY, "--set", "quantization_aware=true", "--set", "learning_rate=1e-4"]
    assert "--set weights=best.keras" in fails("train", "nuclei_unet", "--data", tiny_data, "--out", run, *settings)
    arguments = ["nuclei_unet", "--data", tiny_data, "--out", run, *settings, "--set"]
    assert tool("train")([*map(str, arguments), f"weights={tiny_run / 'best.keras'}"]) == 0
    arguments = [run / "best.keras", "--out", tmp_path, "--name", "net", "--format", "tflite", "--precision", "int8"]
    arguments += ["--calibrate", tiny_data, "--verify", tiny_data]
    assert tool("export")([str(a) for a in arguments]) == 0
    card = json.loads((tmp_path / "net.tflite.json").read_text())
    assert card["conversion"]["trained_ranges"] > 10
    assert card["parity"]["max_abs_error"] == 0
    assert card["parity"]["mean_iou_keras"] > 0.8


def test_check_tells_what_delegates_refuse(tiny_run, tiny_data, tmp_path, capsys):
    arguments = [tiny_run / "best.keras", "--out", tmp_path, "--name", "net", "--format", "tflite"]
    assert tool("export")([str(a) for a in [*arguments, "--verify", tiny_data]]) == 0
    assert "CPU delegate: taken whole" in capsys.readouterr().out
    assert tool("export")(["--check", str(tmp_path / "net.tflite")]) == 0
    told = capsys.readouterr().out
    assert "signature serving_default: image -> logits" in told
    assert "Flex and custom operators: none" in told
    assert "works on float32; it takes int8, uint8 [1]" in told  # the Edge TPU's refusal, with its source
    assert "[1] https://coral.ai/docs/edgetpu/models-intro/#model-requirements" in told


@pytest.mark.parametrize("name", ["train", "evaluate", "predict", "export"])
def test_help_shows_examples(name, capsys):
    with pytest.raises(SystemExit) as stop:
        tool(name)(["--help"])
    assert stop.value.code == 0
    assert f"python tools/{name}.py" in capsys.readouterr().out


def test_tools_are_short():
    for path in TOOLS.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 90, path.name
