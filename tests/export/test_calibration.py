"""Which images set the scales and prove a file."""

import numpy as np
import pytest
from PIL import Image

from kseg import data, export
from kseg.errors import InputError
from kseg.export.calibration import choose
from kseg.labels import LabelSet


@pytest.fixture
def photos(tmp_path):
    """Seven pictures of one grey each, and what else lies about."""
    for place in range(7):
        Image.fromarray(np.full((5, 6, 3), 10 * place, np.uint8)).save(tmp_path / f"{place}.png")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(b"")
    return tmp_path


def _greys(images):
    return [int(image[0, 0, 0]) for image in images]


def test_images_without_masks_are_spread_evenly(photos):
    found = export.calibrate(photos, "train", 3)
    assert _greys(found.images) == [0, 20, 40]
    assert found.to_dict()["data"] == export.data_name(photos, "train") == str(photos)
    assert len(export.calibrate(photos, "train", 50).images) == 7


def test_images_without_masks_prove_but_do_not_score(photos):
    pairs = export.verification(photos, "val", 2, LabelSet.numbered(2))
    assert _greys(image for image, _ in pairs) == [0, 30]
    assert [label for _, label in pairs] == [None, None]


def test_a_damaged_picture_is_named(photos):
    (photos / "0.png").write_bytes(b"damaged")
    with pytest.raises(InputError, match="0.png: does not decode"):
        export.calibrate(photos, "train", 3)


def test_an_empty_folder_is_no_data(tmp_path):
    with pytest.raises(InputError, match="neither labels.json, images/"):
        export.calibrate(tmp_path, "train", 3)


def test_with_masks_the_split_counts(tiny_data):
    greys = [export.calibrate(tiny_data, split, 50).images for split in ("train", "val")]
    assert [len(images) for images in greys] == [6, 3]
    (_, label), *_ = export.verification(tiny_data, "val", 2, LabelSet.load(tiny_data / "labels.json"))
    assert label.shape == (40, 48)
    (_, label), *_ = export.verification(tiny_data, "val", 2, LabelSet.numbered(2))
    assert label is None, "other classes"


def test_calibration_shows_every_class(tmp_path):
    """Of 40 images two show the rare class, and evenly spaced ones would miss them; the same are chosen every time."""
    images = np.arange(40, dtype=np.uint8).reshape(-1, 1, 1, 1) * np.ones((1, 4, 4, 3), np.uint8)
    masks = np.zeros((40, 4, 4), np.uint8)
    masks[::2, :2] = 1
    masks[[11, 23], 0, 0] = 2
    source = data.arrays(images, masks, LabelSet.numbered(3))
    chosen = [_greys(choose(source, 10)) for _ in range(2)]
    assert chosen[0] == chosen[1] == sorted(set(chosen[0]))
    assert len(chosen[0]) == 10
    assert {11, 23} <= set(chosen[0])
    assert not {11, 23} <= set(range(0, 40, 4))
    assert sum(grey % 2 == 0 for grey in chosen[0]) >= 3
