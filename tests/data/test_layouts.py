"""Folders, VOC trees, arrays and what is typed on a command line."""

import os
import sys

import numpy as np
import pytest
from handmade import LABELS, dataset, indices, picture, save
from PIL import Image

from kseg import data
from kseg.errors import InputError
from kseg.labels import voc_colour


def test_folder_with_splits(tmp_path):
    source = data.open_source(dataset(tmp_path), "train")
    assert source.names == ("a.jpg", "b.jpg", "c.jpg")
    assert len(source) == 3
    assert source.labels == LABELS
    image, label = source.load(1)
    assert (image.shape, image.dtype) == ((24, 30, 3), np.uint8)
    np.testing.assert_array_equal(label, indices(24, 30, seed=1))


@pytest.mark.parametrize("split", [None, "all"])
def test_folder_without_splits(split, tmp_path):
    assert data.open_source(dataset(tmp_path, split="."), split).names == ("a.jpg", "b.jpg", "c.jpg")


def test_wrong_splits_name_those_that_exist(tmp_path):
    dataset(tmp_path, split="train")
    dataset(tmp_path, split="val")
    for split in ("test", str(tmp_path / "images/train"), "../masks/train"):
        with pytest.raises(InputError, match=r'no such split; there are: train, val; a part of one is "train\[:80%\]"'):
            data.open_source(tmp_path, split)
    with pytest.raises(InputError, match="choose a split; there are: train, val"):
        data.open_source(tmp_path)


def test_parts_of_a_folder(tmp_path):
    path = dataset(tmp_path, split=".")
    assert data.folder(path, "all[:2]").names == ("a.jpg", "b.jpg")
    assert data.folder(path, "all[2:]+all[:1]").names == ("c.jpg", "a.jpg")


def test_a_split_of_a_folder_without_splits(tmp_path):
    with pytest.raises(InputError, match='choose "all"'):
        data.open_source(dataset(tmp_path, split="."), "val")


def test_masks_whose_names_end_in_more(tmp_path):
    """As in data sets that keep both in one folder, and as CamVid comes."""
    dataset(tmp_path, names=("a", "b", "a_1"))
    for mask in sorted((tmp_path / "masks/train").iterdir()):
        mask.rename(mask.with_stem(f"{mask.stem}_L"))
    save(tmp_path / "masks/train/0_L.png", indices(24, 30))
    source = data.open_source(tmp_path, "train")
    assert [path.split("/")[-1] for _, path in map(source.files, range(3))] == ["a_L.png", "a_1_L.png", "b_L.png"]
    assert [(path.split("/")[-1], why) for path, why in source.orphans] == [("0_L.png", "mask without an image")]
    for mask in sorted((tmp_path / "masks/train").iterdir()):
        mask.rename(mask.with_stem(mask.stem.replace("_L", "0")))  # a.jpg, a0.png: of two pictures, perhaps
    assert len(data.open_source(tmp_path, "train").orphans) == 4
    for mask in sorted((tmp_path / "masks/train").iterdir()):
        mask.rename(mask.with_stem(mask.stem[:-1] + "_L"))
    save(tmp_path / "masks/train/b.png", indices(24, 30))  # now it is an ending no more
    assert source.files(0)[1] != data.open_source(tmp_path, "train").files(0)[1]


def test_a_mask_goes_to_the_image_whose_name_it_begins_with_longest(tmp_path):
    dataset(tmp_path, names=("cat", "cat_b"))
    (tmp_path / "masks/train/cat.png").unlink()
    (tmp_path / "masks/train/cat_b.png").rename(tmp_path / "masks/train/cat_b_mask.png")
    source = data.open_source(tmp_path, "train")
    assert dict(map(source.files, range(2)))[str(tmp_path / "images/train/cat_b.jpg")].endswith("cat_b_mask.png")


def test_images_one_folder_deeper_are_told(tmp_path):
    dataset(tmp_path, split="train/aachen")
    with pytest.raises(InputError, match="no images in it; those in its folders do not count"):
        data.open_source(tmp_path, "train")


def test_an_empty_split(tmp_path):
    dataset(tmp_path)
    (tmp_path / "images" / "val").mkdir()
    with pytest.raises(InputError, match="val: no images in it"):
        data.open_source(tmp_path, "val")


@pytest.mark.parametrize("spec", ["no/such/place", ""])
def test_no_such_folder(spec, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        data.open_source(str(tmp_path / "none") if spec else "no/such/place")


def test_a_folder_of_something_else(tmp_path):
    with pytest.raises(InputError, match=r"neither labels\.json"):
        data.open_source(tmp_path)


def test_a_folder_without_labels(tmp_path):
    dataset(tmp_path)
    (tmp_path / "labels.json").unlink()
    with pytest.raises(InputError, match=r"labels\.json: no such file"):
        data.open_source(tmp_path, "train")


def test_a_folder_called_all(tmp_path):
    dataset(tmp_path, names=("a", "b"))
    for kind in ("images", "masks"):
        (tmp_path / kind / "train").rename(tmp_path / kind / "all")
    assert data.split_names(tmp_path) == ["all"]
    save(tmp_path / "images" / "beside.png", picture(5, 5))
    assert data.open_source(tmp_path, "all").names == ("a.jpg", "b.jpg")
    assert data.open_source(tmp_path, "all[1:]").names == ("b.jpg",)


def test_two_images_of_one_name(tmp_path):
    dataset(tmp_path)
    save(tmp_path / "images" / "train" / "a.png", picture(5, 5))
    with pytest.raises(InputError, match=r"suffix only: a\.jpg, a\.png"):
        data.open_source(tmp_path, "train")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_text(tmp_path):
    dataset(tmp_path)
    folder = os.fsencode(tmp_path / "images" / "train")
    os.rename(folder + b"/a.jpg", folder + b"/a\xff.jpg")
    with pytest.raises(InputError, match=r"name is not UTF-8: 'a\\udcff\.jpg'; rename it"):
        data.open_source(tmp_path, "train")


def test_names_with_dots_and_unknown_files(tmp_path):
    dataset(tmp_path, names=("a.1", "a.2", "größe 3"))
    (tmp_path / "images" / "train" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "images" / "train" / ".hidden.png").write_bytes(b"x")
    source = data.open_source(tmp_path, "train")
    assert source.names == ("a.1.jpg", "a.2.jpg", "größe 3.jpg")
    batches = list(data.evaluation_batches(source))
    assert len(batches) == 3


def _voc(root):
    for number, name in enumerate(("2007_000032", "2007_000033", "2007_000034")):
        save(root / "JPEGImages" / f"{name}.jpg", picture(20, 26, seed=number))
        mask = indices(20, 26, classes=21, seed=number)
        mask[0] = 255
        image = Image.fromarray(mask).convert("P")
        image.putpalette([value for index in range(256) for value in voc_colour(index)])
        (root / "SegmentationClass").mkdir(exist_ok=True)
        image.save(root / "SegmentationClass" / f"{name}.png")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000034\n2007_000032\n\n")
    (lists / "val.txt").write_text("2007_000033\n")
    (lists / "empty.txt").write_text("\n")
    return root


def test_pascal_voc(tmp_path):
    source = data.open_source(_voc(tmp_path), "train")
    assert source.names == ("2007_000034.jpg", "2007_000032.jpg")
    assert len(source.labels) == 21
    assert source.labels.ignore == 255
    assert source.labels.colours[1] == (128, 0, 0)
    _, label = source.load(0)
    assert (label[0] == 255).all()
    np.testing.assert_array_equal(label[1:], indices(20, 26, classes=21, seed=2)[1:])
    report = data.scan(source)
    assert report.problems == ()
    assert report.ignored_pixels == 52


def test_pascal_voc_mistakes(tmp_path):
    _voc(tmp_path)
    with pytest.raises(InputError, match="no such split; there are: empty, train, val"):
        data.open_source(tmp_path, "test")
    with pytest.raises(InputError, match="an empty split"):
        data.open_source(tmp_path, "empty")
    assert data.split_names(tmp_path) == ["empty", "train", "val"]
    assert len(data.mask_files(tmp_path)) == 3
    (tmp_path / "ImageSets" / "Segmentation" / "train.txt").write_text("a\nb\na\n")
    with pytest.raises(InputError, match="holds twice: a"):
        data.open_source(tmp_path, "train")
    (tmp_path / "ImageSets" / "Segmentation" / "train.txt").write_text("2007_000032\nmissing\n")
    problems = data.scan(data.open_source(tmp_path, "train")).problems
    assert [message.split(";")[0] for _, message in problems] == ["no such file", "has no mask"]


def test_pascal_voc_without_lists(tmp_path):
    (tmp_path / "JPEGImages").mkdir()
    for call in (data.split_names, lambda folder: data.open_source(folder, "train"), data.mask_files):
        with pytest.raises(InputError, match="Segmentation: no lists in it, such as train.txt"):
            call(tmp_path)


def test_a_letter_of_two_signs_is_one_letter(tmp_path):
    """macOS writes é as e and an accent, most others as one sign."""
    dataset(tmp_path, ("e\u0301t\u00e9",))
    mask = tmp_path / "masks" / "train" / "e\u0301t\u00e9.png"
    mask.rename(mask.with_name("\u00e9te\u0301.png"))
    source = data.open_source(tmp_path, "train")
    assert source.orphans == ()
    assert data.scan(source).problems == ()


def test_a_letter_of_two_signs_in_pascal_vocs_lists(tmp_path):
    _voc(tmp_path)
    (tmp_path / "ImageSets" / "Segmentation" / "train.txt").write_text("\u00e9te\u0301\n", encoding="utf-8")
    image, mask = tmp_path / "JPEGImages" / "2007_000032.jpg", tmp_path / "SegmentationClass" / "2007_000032.png"
    image.rename(image.with_stem("e\u0301te\u0301"))
    mask.rename(mask.with_stem("\u00e9t\u00e9"))
    assert data.scan(data.open_source(tmp_path, "train")).problems == ()
    assert len(data.mask_files(tmp_path)) == 2


def test_the_bundled_nuclei():
    train, val = data.open_source("nuclei", "train"), data.open_source("nuclei", "val")
    assert train.labels.names == ("background", "nucleus")
    assert not set(train.names) & set(val.names)
    assert data.scan(val).problems == ()


def test_arrays():
    images = [picture(5, 6), picture(7, 8)[..., 0]]
    masks = [indices(5, 6), indices(7, 8).astype(np.int64)]
    source = data.arrays(images, masks, LABELS)
    assert source.names == ("0", "1")
    assert data.scan(source).problems == ()
    for index, (image, label) in enumerate(data.evaluation_batches(source)):
        np.testing.assert_array_equal(image[0], source.load(index)[0])
        np.testing.assert_array_equal(label[0], masks[index])


BAD_ARRAYS = {
    "same length": ([picture(5, 5)], []),
    "uint8": ([picture(5, 5) / 255.0], [indices(5, 5)]),
    "mask 0 must be integer": ([picture(5, 5)], [indices(5, 6)]),
    r"index 3 \(25 pixels\) outside": ([picture(5, 5)], [np.full((5, 5), 3)]),
    r"index -1 \(25 pixels\) outside": ([picture(5, 5)], [np.full((5, 5), -1)]),
}


@pytest.mark.parametrize("message", BAD_ARRAYS)
def test_bad_arrays(message):
    with pytest.raises(InputError, match=message):
        data.arrays(*BAD_ARRAYS[message], LABELS)
