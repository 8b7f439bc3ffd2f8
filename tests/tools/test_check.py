"""tools/check.py: what is in a folder of images and masks, and what is wrong."""

import json

import numpy as np
import pytest
from PIL import Image
from tooling import tool


@pytest.fixture
def folder(tmp_path):
    """Two images for training and one for validation, masks of 0 and 3, no labels.json."""
    for split, names in (("train", "ab"), ("val", "c")):
        for kind in ("images", "masks"):
            (tmp_path / kind / split).mkdir(parents=True)
        for place, name in enumerate(names):
            mask = np.zeros((20, 30), np.uint8)
            mask[:, : 15 * place] = 3
            Image.fromarray(mask).save(tmp_path / "masks" / split / f"{name}.png")
            Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(tmp_path / "images" / split / f"{name}.png")
    return tmp_path


def _rows(output):
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in output.splitlines() if "│" in line]


def test_proposes_counts_and_draws(folder, capsys):
    assert tool("check")([str(folder), "--propose", "--picture", str(folder / "samples.png")]) == 0
    fields = json.loads((folder / "labels.json").read_text())
    assert (len(fields["names"]), fields["masks"], fields["ignore"]) == (4, "index", None)
    output = capsys.readouterr().out
    rows = {row[0]: row[2:] for row in _rows(output)}
    assert rows["0 class_0"] == ["75.00%", "2", "100.00%", "1"]
    assert rows["3 class_3"] == ["25.00%", "1", "0.00%", "0"]
    assert "4 classes guessed" in output
    with Image.open(folder / "samples.png") as picture:
        pixels = np.array(picture)
    overlay = pixels[24:44, 34:49]  # the second image, its left half
    assert (overlay == overlay[0, 0]).all()
    assert not (overlay[0, 0] == 90).all(), "class 3 is not drawn"
    assert (pixels[24:44, 50:64] == 90).all(), "black is drawn"


def test_keeps_labels_that_are_there(folder, fails):
    (folder / "labels.json").write_text("mine")
    assert "is there already" in fails("check", folder, "--propose")
    assert (folder / "labels.json").read_text() == "mine"


def test_lists_problems(folder, fails, capsys):
    assert tool("check")([str(folder), "--propose"]) == 0
    (folder / "masks" / "val" / "c.png").write_bytes(b"damaged")
    (folder / "masks" / "train" / "b.png").unlink()
    (folder / "images" / "val" / "a.png").write_bytes((folder / "images" / "train" / "a.png").read_bytes())
    capsys.readouterr()
    assert tool("check")([str(folder)]) == 1
    *problems, last = capsys.readouterr().err.splitlines()
    assert last == "failed: 3 problems in the data, listed above"
    images, masks = folder / "images", folder / "masks"
    assert problems[:2] == [
        f"{images / 'train' / 'b.png'}: has no mask; {masks / 'train' / 'b.png'} is wanted",
        f"{images / 'val' / 'a.png'}: has no mask; {masks / 'val' / 'a.png'} is wanted",
    ]
    assert problems[2].startswith(f"{masks / 'val' / 'c.png'}: does not decode")
    assert "no such split; there are: train, val" in fails("check", folder, "--splits", "test")


def test_one_image_in_two_splits(folder, capsys):
    assert tool("check")([str(folder), "--propose", "--splits", "train", "val+train[1:]"]) == 0
    assert "Images of val+train[1:] that are in train, too: 1." in capsys.readouterr().out
