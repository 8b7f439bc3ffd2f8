"""The tools on their users' bad days: one clear line, an exit code that is not 0, and nothing overwritten."""

import os
import shlex
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace

import keras
import numpy as np
import pytest
from PIL import Image
from tooling import TINY, TOOLS, tool

from kseg.applications import UNet
from kseg.labels import LabelSet
from kseg.training import save_model


@pytest.fixture
def data(tiny_data, tmp_path):
    """A copy of the small data set, to be damaged."""
    return shutil.copytree(tiny_data, tmp_path / "data")


def _jpeg(data):
    """Turn the first image into a JPEG that ends in its middle."""
    path = data / "images/train/0.png"
    with Image.open(path) as image:
        image.save(data / "images/train/0.jpg")
    path.unlink()
    whole = (data / "images/train/0.jpg").read_bytes()
    (data / "images/train/0.jpg").write_bytes(whole[: len(whole) // 2])


def _mask(data, array):
    Image.fromarray(array.astype(np.uint8)).save(data / "masks/train/1.png")


FAULTS = {
    "missing mask": (lambda data: (data / "masks/train/2.png").unlink(), "2.png"),
    "truncated JPEG": (_jpeg, "0.jpg"),
    "mask of another size": (lambda data: _mask(data, np.zeros((7, 9))), "1.png"),
    "index beyond the label set": (lambda data: _mask(data, np.full((40, 48), 5)), "1.png"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_data_is_told_before_training(fault, data, tmp_path, capsys):
    damage, name = FAULTS[fault]
    damage(data)
    arguments = ["nuclei_unet", "--data", str(data), "--out", str(tmp_path / "run"), *TINY]
    assert tool("train")(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert name in lines[0]
    assert lines[-1] == "error: 1 problem in the data; mend them, or leave these images out (--skip-bad; skip_bad=True)"
    assert not (tmp_path / "run").exists()


def test_all_faults_are_told_together_and_can_be_skipped(data, tmp_path, capsys):
    for damage, _ in FAULTS.values():
        damage(data)
    (data / "masks/val/1.png").unlink()
    arguments = ["nuclei_unet", "--data", str(data), "--out", str(tmp_path / "run"), *TINY]
    assert tool("train")(arguments) == 2
    # Of both splits; of the two faults of mask 1 the later one stays.
    assert "error: 4 problems" in capsys.readouterr().err
    assert tool("train")([*arguments, "--skip-bad", "--set=epochs=1"]) == 0
    told = capsys.readouterr().out
    assert "Left out 3 of 6 images" in told
    assert "Left out 1 of 3 images" in told
    network = str(tmp_path / "run" / "best.keras")
    assert tool("evaluate")([network, "--data", str(data)]) == 2
    assert tool("evaluate")([network, "--data", str(data), "--skip-bad"]) == 0
    assert "(2 images)" in capsys.readouterr().out
    exported = ["--out", str(tmp_path / "files"), "--format=tflite", "--precision=int8", "--calibrate", str(data)]
    assert tool("export")([network, *exported, "--verify", str(data)]) == 2
    assert tool("export")([network, *exported, "--verify", str(data), "--skip-bad"]) == 0


def test_a_loss_that_is_no_number(tiny_data, tmp_path, fails):
    arguments = ["nuclei_unet", "--data", tiny_data, "--out", tmp_path / "run", *TINY, "--set=validate_every=1"]
    overflow = ["--set=learning_rate=1e30", "--set=warmup_steps=0"]
    assert "lower `learning_rate`" in fails("train", *arguments, *overflow)
    # In one step the loss is still that of the weights at the start.
    arguments[4], one = tmp_path / "one", ["--set=batch=6", "--set=repeats=1", "--set=epochs=1"]
    assert "one: no validation gave a finite score" in fails("train", *arguments, *overflow, *one)


def test_nothing_labelled_is_told_before_training(data, tmp_path, fails):
    replace(LabelSet.load(data / "labels.json"), ignore=255).save(data / "labels.json")
    for path in (data / "masks/val").iterdir():
        Image.fromarray(np.full((40, 48), 255, np.uint8)).save(path)
    message = fails("train", "nuclei_unet", "--data", data, "--out", tmp_path / "run", *TINY)
    assert "none of the 3 images has a labelled pixel" in message
    assert not (tmp_path / "run").exists()


def test_runs_where_none_can_be(tiny_data, tmp_path, fails):
    (tmp_path / "file").write_text("")
    assert "is a file" in fails("train", "nuclei_unet", "--data", tiny_data, "--out", tmp_path / "file/run", *TINY)


def test_commands_that_can_be_copied(tiny_data, tmp_path, capsys):
    run = tmp_path / "my run"
    assert tool("train")(["nuclei_unet", "--data", str(tiny_data), "--out", str(run), *TINY, "--set=epochs=1"]) == 0
    report, following = capsys.readouterr().out.strip().splitlines()[-2:]
    assert shlex.split(report)[-1] == str(run)
    assert shlex.split(following)[3] == str(run / "best.keras")


def test_notes_that_are_no_text(tiny_run, tmp_path, fails):
    page, notes = tmp_path / "page.md", tmp_path / "notes.md"
    assert "no such file" in fails("report", tiny_run, "--markdown", page, "--notes", notes)
    notes.write_bytes("Tränen".encode("latin-1"))
    assert "not a text file in UTF-8" in fails("report", tiny_run, "--markdown", page, "--notes", notes)
    (tmp_path / "results").write_text("")
    assert "is a file" in fails("report", tiny_run, "--markdown", page)


def test_an_empty_split(data, tmp_path, fails):
    for kind in ("images", "masks"):
        for path in (data / kind / "val").iterdir():
            path.unlink()
    message = fails("train", "nuclei_unet", "--data", data, "--out", tmp_path / "run", *TINY)
    assert "val" in message
    assert not (tmp_path / "run").exists()


def test_unknown_names(tiny_data, tmp_path, fails):
    run = tmp_path / "run"
    assert "there are: nuclei_unet" in fails("train", "nuclei", "--data", tiny_data, "--out", run)
    message = fails("train", "nuclei_unet", "--data", tiny_data, "--out", run, "--set", "filter=4")
    assert "no recipe field 'filter'; there are: model, backbone" in message
    message = fails("train", "nuclei_unet", "--data", tiny_data, "--out", run, "--set", "model=SegNet")
    assert "there are: FCN32s, FCN16s, FCN8s, UNet, DeepLabV3Plus" in message
    message = fails("train", "nuclei_unet", "--data", tiny_data, "--out", run, "--set", "fc_units=8")
    assert "UNet has no option fc_units" in message
    assert "no class 'ring'" in fails("train", "nuclei_unet", "--data", tiny_data, "--out", run, "--boundaries", "ring")
    assert "seeds must be different" in fails(
        "train", "nuclei_unet", "--data", tiny_data, "--out", run, "--seeds", 1, 1
    )
    assert "no_such_folder" in fails("train", "nuclei_unet", "--data", "no_such_folder", "--out", run)
    assert not run.exists()


def test_charts_that_cannot_be_drawn_are_told_before_the_work(tiny_run, tiny_data, tmp_path, fails, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    out, best = tmp_path / "out", tiny_run / "best.keras"
    for given in (("train", "nuclei_unet", "--out"), ("evaluate", best, "--pictures")):
        assert "pip install '.[plots]'" in fails(*given, out, "--data", tiny_data)
    assert not out.exists()


def test_a_run_is_not_overwritten(tiny_run, tiny_data, fails):
    before = (tiny_run / "best.keras").read_bytes()
    assert "--resume" in fails("train", "nuclei_unet", "--data", tiny_data, "--out", tiny_run)
    assert "nothing to resume" in fails("train", "nuclei_unet", "--data", tiny_data, "--out", tiny_run, "--resume")
    assert (tiny_run / "best.keras").read_bytes() == before


def test_damaged_and_foreign_models(tiny_run, tiny_data, tmp_path, fails):
    cut = tmp_path / "cut.keras"
    cut.write_bytes((tiny_run / "best.keras").read_bytes()[:5000])
    assert "cut.keras: not a readable .keras file" in fails("evaluate", cut, "--data", tiny_data)
    assert "cut.keras" in fails("export", cut, "--out", tmp_path / "out", "--format", "tflite")
    assert "no.keras: no such file" in fails("evaluate", tmp_path / "no.keras", "--data", tiny_data)
    foreign = tmp_path / "classifier.tflite"
    foreign.write_bytes(b"\0\0\0\0TFL3 of somebody else")
    assert "classifier.tflite" in fails("predict", foreign, tiny_data / "images/val/0.png", "--out", tmp_path / "out")
    assert "a model is a .keras" in fails("evaluate", tmp_path / "net.pt", "--data", tiny_data)
    assert not (tmp_path / "out").exists()


def test_other_classes_than_the_data(tiny_run, data, fails):
    LabelSet.numbered(3).save(data / "labels.json")
    assert "2 classes" in fails("evaluate", tiny_run / "best.keras", "--data", data)


def test_a_missing_folder_is_told_before_the_evaluation(tiny_data, tmp_path, fails):
    # The model does not exist either: only what is looked at first can be told.
    message = fails("evaluate", "no.keras", "--data", tiny_data, "--json", tmp_path / "no" / "scores.json")
    assert "its folder does not exist" in message


def test_predict_goes_on_after_a_bad_image(tiny_run, tiny_data, tmp_path, capsys):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    good = tiny_data / "images/val/0.png"
    arguments = [tiny_run / "best.keras", tmp_path / "bad.jpg", good, "--out", tmp_path / "out"]
    assert tool("predict")([str(a) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert "bad.jpg" in captured.err
    assert "1 of 2 images" in captured.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.png", "0_overlay.png"]


def test_predict_overwrites_no_picture_that_it_was_given(tiny_run, tmp_path, fails):
    for name in ("a.png", "a_overlay.png", "a.bmp"):
        Image.new("RGB", (9, 7), "red").save(tmp_path / name)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    photo, out = tmp_path / "a.png", tmp_path / "out"
    message = fails("predict", tiny_run / "best.keras", photo, "--out", tmp_path)
    assert "a.png: would be overwritten by a result; choose another folder" in message
    for other in ("a_overlay.png", "a.bmp", "a.png"):
        message = fails("predict", tiny_run / "best.keras", photo, tmp_path / other, "--out", out)
        assert "several images would have the same name: a" in message
    assert "a.png is a file" in fails("predict", tiny_run / "best.keras", tmp_path / "a.bmp", "--out", photo)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_masks_that_are_no_earlier_result_stay(tiny_run, tiny_data, tmp_path, fails):
    given = ["predict", str(tiny_run / "best.keras"), str(tiny_data / "images/val/0.png"), "--out", str(tmp_path)]
    (tmp_path / "0.png").write_bytes(b"drawn by hand")
    assert "0.png: is there and no earlier result; choose another --out" in fails(*given)
    assert (tmp_path / "0.png").read_bytes() == b"drawn by hand"
    (tmp_path / "0.png").unlink()
    assert [tool("predict")(given[1:]) for _ in range(2)] == [0, 0]  # an earlier result is replaced


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_pictures_never_replace_the_data(kind, tiny_run, data, fails):
    before = {path: path.read_bytes() for path in data.rglob("*.png")}
    folder = data / kind / "val"
    message = fails("evaluate", tiny_run / "best.keras", "--data", data, "--pictures", folder)
    assert "0.png" in message
    assert "would be overwritten by a result" in message
    assert {path: path.read_bytes() for path in data.rglob("*.png")} == before


def test_classes_in_another_order_or_called_otherwise(tiny_run, data, fails, capsys):
    labels = LabelSet.load(data / "labels.json")
    replace(labels, names=labels.names[::-1]).save(data / "labels.json")
    message = fails("evaluate", tiny_run / "best.keras", "--data", data)
    assert "classes in the order ground, disc, the data in the order disc, ground" in message
    replace(labels, names=("Boden", "Scheibe")).save(data / "labels.json")
    assert tool("evaluate")([str(tiny_run / "best.keras"), "--data", str(data)]) == 0
    note = "the network's classes are called ground, disc, the data's Boden, Scheibe; scores are under the data's names"
    assert note in capsys.readouterr().out


def test_layers_that_only_another_program_knows(tiny_data, tmp_path, fails):
    class Elsewhere(keras.layers.Layer):
        def call(self, images):
            return images

    images = keras.Input((None, None, 3))
    for layer in (Elsewhere(), keras.layers.Lambda(lambda x: x)):
        model = keras.Model(images, keras.layers.Conv2D(2, 1)(layer(images)))
        model.save(tmp_path / "own.keras")
        message = fails("evaluate", tmp_path / "own.keras", "--data", tiny_data)
        assert f"neither Keras nor kseg can load: {type(layer).__name__}; load it with Keras" in message


def test_outputs_of_the_wrong_kind_are_told_before_the_evaluation(tiny_run, tiny_data, tmp_path, fails):
    (tmp_path / "taken").touch()
    given = ("evaluate", "no.keras", "--data", tiny_data)
    assert "is a folder; a file is to be written" in fails(*given, "--json", tmp_path)
    assert "taken is a file" in fails(*given, "--pictures", tmp_path / "taken")
    assert "is a folder" in fails("report", tiny_run, "--out", tmp_path)
    assert "a page is a .html file" in fails("report", tiny_run, "--out", tmp_path / "best.keras")
    (tmp_path / "net.tflite").mkdir()
    given = ("export", tiny_run / "best.keras", "--out", tmp_path, "--name", "net", "--format", "tflite")
    assert "net.tflite: is a folder" in fails(*given, "--size", 32, 32, "--verify", tiny_data)
    assert {path.name for path in tmp_path.iterdir()} == {"taken", "net.tflite"}


def test_float_layers_that_are_not_there(tiny_run, tiny_data, tmp_path, fails):
    given = ("--precision", "int8", "--calibrate", tiny_data, "--verify", tiny_data, "--size", 32, 32)
    given = ("export", tiny_run / "best.keras", "--out", tmp_path, "--format", "tflite", *given)
    message = fails(*given, "--float-layers", "nope")
    assert "no layer nope that could stay in float; there are: encode_1_conv1" in message
    assert not list(tmp_path.iterdir())


def test_arguments_that_no_tool_takes(tiny_run, tiny_data, tmp_path, fails):
    given = ("predict", tiny_run / "best.keras", tiny_data / "images/val/0.png", "--out", tmp_path)
    assert "--opacity must be in 0..1. Received: 7.0" in fails(*given, "--opacity", 7)
    assert "a folder without images" in fails(*given[:2], tiny_data, *given[3:])


def test_a_backend_that_there_is_not():
    command = [sys.executable, TOOLS / "predict.py", "a.keras", "b.png", "--out", "c"]
    environment = {**os.environ, "KERAS_BACKEND": "none"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith("error: Keras found no backend (")
    assert done.stderr.count("\n") == 1


def test_a_mask_that_evaluation_cannot_count_is_named(tiny_run, data, fails):
    path = data / "masks/val/1.png"
    with Image.open(path) as mask:
        Image.fromarray(np.full_like(np.array(mask), 7)).save(path)
    assert "1.png: index 7 (" in fails("evaluate", tiny_run / "best.keras", "--data", data)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((None, None, 1), "other.keras: takes images of the shape (None, None, 1); RGB is wanted"),
        ((None, None, 4), "other.keras: takes images of the shape (None, None, 4); RGB is wanted"),
        ((64, 64, 3), "unet: was built for images of 64x64 (height x width), not of 40x48"),
    ],
)
def test_networks_for_other_images(shape, message, tiny_data, tmp_path, fails):
    network = UNet(input_shape=shape, classes=2, filters=4, depth=2)
    save_model(network, tmp_path / "other.keras", LabelSet.numbered(2))
    image = tiny_data / "images/val/0.png"
    assert message in fails("predict", tmp_path / "other.keras", image, "--out", tmp_path / "out")


def test_int8_needs_calibration(tiny_run, tiny_data, tmp_path, fails):
    given = ("export", tiny_run / "best.keras", "--out", tmp_path, "--format", "tflite", "--precision", "int8")
    assert "calibrat" in fails(*given, "--verify", tiny_data)
    assert not list(tmp_path.iterdir())


def test_a_network_of_something_else_is_not_proven_on_nuclei(tiny_run, tmp_path, fails):
    message = fails("export", tiny_run / "best.keras", "--out", tmp_path, "--format", "onnx")
    assert "a file for ground, disc has to be proven on images such as it will see" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [None, b"", b"TFL3", b"somebody else's", bytes(4096)])
def test_check_of_what_is_no_tflite_file(tmp_path, fails, content):
    path = tmp_path / "foreign.tflite"
    if content is not None:
        path.write_bytes(content)
    assert "foreign.tflite: " in fails("export", "--check", path)


def test_export_into_a_file_or_with_no_image(tiny_run, tmp_path, fails):
    taken = tmp_path / "taken"
    taken.touch()
    given = ("export", tiny_run / "best.keras", "--format", "tflite", "--out")
    assert "taken is a file" in fails(*given, taken)
    assert "--images must be at least 1. Received: 0" in fails(*given, tmp_path / "new", "--images", 0)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_export_without_its_arguments(capsys):
    with pytest.raises(SystemExit) as stop:
        tool("export")(["model.keras"])
    assert stop.value.code == 2
    assert "--out and --format are needed" in capsys.readouterr().err


def test_a_full_disk(tiny_run, tiny_data, small_disk, fails):
    with suppress(OSError), open(small_disk / "fill", "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    message = fails("export", tiny_run / "best.keras", "--out", small_disk, "--format", "tflite", "--verify", tiny_data)
    assert "no space left" in message
    message = fails("train", "nuclei_unet", "--data", tiny_data, "--out", small_disk / "run", *TINY)
    assert "no space left" in message
    assert {path.name for path in small_disk.iterdir()} <= {"fill", "run"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--window", "32", "--overlap", "32"), "overlap of windows of 32x32 must be 0..31. Received: 32"),
        (("--overlap", "8"), "an overlap was given, but no window"),
        (("--scales", "1,0"), "`scales` must be factors above 0"),
        (("--boundaries", "wall"), "no class 'wall'; the classes are ground, disc"),
    ],
)
def test_views_that_cannot_be_are_told(tiny_run, tiny_data, fails, options, message):
    assert message in fails("evaluate", tiny_run / "best.keras", "--data", tiny_data, *options)


@pytest.mark.parametrize("options", [("--window", "3x4x5"), ("--window", "wide"), ("--scales", "1;2")])
def test_options_that_cannot_be_read(tiny_run, options, capsys):
    with pytest.raises(SystemExit) as stop:
        tool("evaluate")([str(tiny_run / "best.keras"), "--data", "nuclei", *options])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert f"argument {options[0]}: must be" in error
    assert f"Received: {options[1]}" in error


def test_predict_goes_on_after_an_image_that_the_network_cannot_take(tmp_path, capsys):
    image = keras.Input((None, None, 3))
    x = keras.layers.UpSampling2D()(keras.layers.Conv2D(2, 2, strides=2)(image))
    network = keras.Model(image, keras.layers.Add()([x, keras.layers.Conv2D(2, 1)(image)]))
    save_model(network, tmp_path / "even.keras", LabelSet.numbered(2))
    (tmp_path / "images").mkdir()
    for name, size in (("a", (8, 8)), ("b", (7, 9)), ("c", (6, 4))):
        Image.new("RGB", size).save(tmp_path / f"images/{name}.png")
    arguments = [tmp_path / "even.keras", tmp_path / "images", "--out", tmp_path / "out"]
    assert tool("predict")([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr()
    assert "b.png: " in said.err
    assert "cannot compute an image of 9 x 7" in said.err
    assert "Detected at" not in said.err
    assert said.out.startswith("2 of 3 images labelled")
    assert (tmp_path / "out/c.png").is_file()
