"""The scan finds everything that is wrong, and says it all at once."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from handmade import LABELS, cut, dataset, indices, picture, save
from PIL import ExifTags, Image

from kseg import data
from kseg.errors import InputError
from kseg.labels import LabelSet


@pytest.fixture
def bad_folder(tmp_path):
    """Nine images, of which "good" alone has nothing wrong."""
    names = ("good", "cut_image", "cut_mask", "size", "index", "two_faults", "no_mask", "empty", "text")
    dataset(tmp_path, names)
    images, masks = tmp_path / "images" / "train", tmp_path / "masks" / "train"
    cut(images / "cut_image.jpg", 0.6)
    cut(masks / "cut_mask.png", 0.5)
    save(masks / "size.png", indices(24, 31))
    wrong = indices(24, 30)
    wrong[:2, :3] = 7
    save(masks / "index.png", wrong)
    cut(images / "two_faults.jpg", 0.6)
    save(masks / "two_faults.png", np.full((24, 30), 99, np.uint8))
    (masks / "no_mask.png").unlink()
    (images / "empty.jpg").write_bytes(b"")
    (images / "text.jpg").write_text("hello")
    save(masks / "no_image.png", indices(24, 30))
    return tmp_path


def test_all_problems_are_listed_at_once(bad_folder):
    source = data.open_source(bad_folder, "train")
    report = data.scan(source)
    found = {(file.split("/")[-1], message) for file, message in report.problems}
    expected = {
        ("cut_image.jpg", "does not decode ("),
        ("cut_mask.png", "does not decode ("),
        ("size.png", "24x31 pixels (height x width), but the image "),
        (
            "index.png",
            'index 7 (6 pixels) outside the label set (classes 0 to 2, ignore index 255); see "values" in labels.json',
        ),
        ("two_faults.jpg", "does not decode ("),
        ("two_faults.png", "index 99 (720 pixels) outside the label set"),
        ("no_mask.jpg", "has no mask; "),
        ("empty.jpg", "does not decode ("),
        ("text.jpg", "does not decode ("),
        ("no_image.png", "mask without an image"),
    }
    for file, start in expected:
        assert any(name == file and message.startswith(start) for name, message in found), (file, found)
    assert len(report.problems) == len(expected)
    assert report.samples == 9
    assert [source.names[i] for i in range(9) if i not in report.bad] == ["good.jpg"]
    assert sum(report.class_pixels) + report.ignored_pixels == 24 * 30


def test_masks_of_0_and_255_are_told_how_to_be_read(tmp_path):
    images, masks = [tmp_path / "a.png"], [tmp_path / "a_mask.png"]
    save(images[0], picture(24, 30))
    save(masks[0], 255 * indices(24, 30, classes=2))
    report = data.scan(data.FileSource(LabelSet.numbered(2), images, masks), progress=False)
    ((_, message),) = report.problems
    assert 'if 255 is class 1: "masks": "colour", "colours": [[0, 0, 0], [255, 255, 255]]' in message


def test_a_mask_beside_an_image_that_exif_turns(tmp_path):
    image, mask = tmp_path / "a.jpg", tmp_path / "a_mask.png"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(picture(24, 30)).save(image, exif=exif)
    save(mask, indices(24, 30, classes=2))
    report = data.scan(data.FileSource(LabelSet.numbered(2), [image], [mask]), progress=False)
    ((_, message),) = report.problems
    assert "24x30 pixels (height x width), but" in message
    assert "has 30x24; if that is the image's EXIF orientation" in message


def test_what_is_left_without_the_bad_ones(bad_folder):
    source = data.open_source(bad_folder, "train")
    kept = data.without(source, data.scan(source))
    assert kept.names == ("good.jpg",)
    assert data.scan(kept).problems == ()
    [(image, label)] = data.evaluation_batches(kept)
    expected = source.load(source.names.index("good.jpg"))
    np.testing.assert_array_equal(image[0], expected[0])
    np.testing.assert_array_equal(label[0], expected[1])


def test_nothing_left(tmp_path):
    dataset(tmp_path, ("a",))
    cut(tmp_path / "images" / "train" / "a.jpg")
    source = data.open_source(tmp_path, "train")
    with pytest.raises(InputError, match="none of the 1 images is left"):
        data.without(source, data.scan(source))


def test_inexact_colours_are_counted(tmp_path):
    labels = replace(LABELS, masks="colour")
    dataset(tmp_path, ("a", "b"), labels=labels)
    for name, inexact in (("a", 3), ("b", 2)):
        colours = labels.to_colours(indices(24, 30))
        colours[0, :inexact] ^= 1
        save(tmp_path / "masks" / "train" / f"{name}.png", colours)
    report = data.scan(data.open_source(tmp_path, "train"))
    assert report.problems == ()
    assert report.inexact_pixels == 5
    assert sum(report.class_pixels) == 2 * 24 * 30


def test_a_file_that_breaks_after_the_scan_is_named(tmp_path):
    dataset(tmp_path, ("a", "b"))
    mask = tmp_path / "masks" / "train" / "b.png"
    content = bytearray(mask.read_bytes())
    source = data.open_source(tmp_path, "train")
    assert data.scan(source).problems == ()
    content[len(content) // 2] ^= 255  # TensorFlow's error for this does not name the file
    mask.write_bytes(content)
    with pytest.raises(InputError, match=r"b\.png: does not decode"), data.naming_bad_files(source):
        list(data.evaluation_batches(source))


def test_an_index_that_metrics_refuse_is_named(tmp_path):
    dataset(tmp_path, ("a", "b"))
    source = data.open_source(tmp_path, "train")
    save(tmp_path / "masks" / "train" / "b.png", np.full((24, 30), 7, np.uint8))
    with pytest.raises(InputError, match=r"b\.png: index 7 \(720 pixels\) outside"), data.naming_bad_files(source):
        raise ValueError("`labels` must be 0..2")
    with pytest.raises(InputError, match="as it was"), data.naming_bad_files(source):
        raise InputError("as it was")


def test_a_file_that_only_tensorflow_refuses_is_named(tmp_path):
    """Pillow does not look at the checksums of a PNG's pixels."""
    dataset(tmp_path, ("a", "b"))
    path = tmp_path / "masks" / "train" / "b.png"
    content = bytearray(path.read_bytes())
    content[content.rindex(b"IEND") - 5] ^= 1  # the last byte of the checksum before the last chunk's length
    path.write_bytes(content)
    source = data.open_source(tmp_path, "train")
    assert data.scan(source).problems == ()
    with (
        pytest.raises(InputError, match=r"b\.jpg: TensorFlow cannot decode it or its mask"),
        data.naming_bad_files(source),
    ):
        list(data.evaluation_batches(source))


def test_it_is_named_beside_masks_that_pillow_reads(tmp_path):
    """Colour masks do not go through TensorFlow's decoders, the image with the wrong checksum does."""
    labels = LabelSet(("black", "white"), ((0, 0, 0), (255, 255, 255)), masks="colour")
    images, masks = [tmp_path / "a.png", tmp_path / "b.png"], [tmp_path / "a_mask.png", tmp_path / "b_mask.png"]
    for image, mask in zip(images, masks, strict=True):
        save(image, picture(24, 30))
        save(mask, 255 * indices(24, 30, classes=2))
    content = bytearray(images[1].read_bytes())
    content[content.rindex(b"IEND") - 5] ^= 1
    images[1].write_bytes(content)
    source = data.FileSource(labels, images, masks)
    assert data.scan(source).problems == ()
    with pytest.raises(InputError, match=r"b\.png: TensorFlow cannot decode it"), data.naming_bad_files(source):
        list(data.evaluation_batches(source))


def test_other_errors_of_tensorflow_stay_as_they_are(tmp_path):
    source = data.open_source(dataset(tmp_path, ("a",)), "train")
    with pytest.raises(tf.errors.InvalidArgumentError), data.naming_bad_files(source):
        tf.reshape(tf.zeros([3]), [2])


def test_reading_and_scanning_need_no_tensorflow(tmp_path):
    dataset(tmp_path, ("a",))
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "from kseg import data\n"
        f"source = data.open_source({str(tmp_path)!r}, 'train')\n"
        "assert data.scan(source).problems == ()\n"
        "source.load(0)\n"
        "try: data.evaluation_batches(source)\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert "kseg[cpu]: in kseg's folder, pip install '.[cpu]'" in done.stdout


def test_a_scan_shows_nothing_where_there_is_no_terminal(tmp_path, capfd):
    data.scan(data.open_source(dataset(tmp_path), "train"))
    assert capfd.readouterr() == ("", "")


def test_a_very_large_index(tmp_path):
    dataset(tmp_path, ("a",))
    save(tmp_path / "masks" / "train" / "a.png", np.full((24, 30), 40000, np.uint16))
    [(_, message)] = data.scan(data.open_source(tmp_path, "train")).problems
    assert message.startswith("index 40000 (720 pixels) outside")


def test_every_public_name_can_be_imported():
    for name in data.__all__:
        assert getattr(data, name) is not None


def test_a_class_that_no_mask_holds_is_named():
    images, masks = np.zeros((2, 4, 4, 3), np.uint8), np.zeros((2, 4, 4), np.uint8)
    masks[:, :2] = 255
    source = data.arrays(images, masks, LabelSet(("ground", "cell"), ((0, 0, 0), (255, 0, 0)), ignore=255))
    lines = []
    data.checked(source, log=lines.append)
    assert lines == [
        "No pixel of the 2 masks is of the class cell, which cannot be learned from them; 50% are unlabelled "
        "(ignore 255): is that right?"
    ]
    masks[:, 3] = 1
    data.checked(data.arrays(images, masks, source.labels), log=lines.append)
    assert len(lines) == 1
