"""What is guessed of masks that come without a labels.json."""

import numpy as np
import pytest
from handmade import dataset
from PIL import Image, ImageDraw

from kseg import data
from kseg.errors import InputError
from kseg.labels import VOID_COLOUR, LabelSet, voc_colour

GREY_RAMP = [value for value in range(256) for _ in "rgb"]


def _guess(folder, *masks, palette=None, suffix="png"):
    """The proposal for masks, uint8 [H, W] or [H, W, 3]."""
    for place, mask in enumerate(masks):
        picture = Image.fromarray(np.asarray(mask, np.uint8))
        if palette is not None:
            picture = picture.convert("P") if picture.mode != "L" else picture
            picture.putpalette(palette)
        picture.save(folder / f"{place}.{suffix}")
    return data.propose_labels(sorted(folder.iterdir()))


def _columns(*values):
    """A mask [20, 10 * values, ...] with ten columns of each value."""
    return np.repeat(np.tile(np.array(values), (20, 1) if np.ndim(values) == 1 else (20, 1, 1)), 10, axis=1)


def test_grey_indices(tmp_path):
    """Class 2 is absent; the other file has 4."""
    labels = _guess(tmp_path, _columns(0, 1, 3), _columns(0, 4))
    names = tuple(f"class_{index}" for index in range(5))
    assert labels == LabelSet(names, tuple(voc_colour(index) for index in range(5)))


def test_a_lone_255_is_not_labelled(tmp_path):
    labels = _guess(tmp_path, _columns(0, 1, 2, 255))
    assert (len(labels), labels.ignore, labels.masks) == (3, 255, "index")


def test_palettes_give_the_colours(tmp_path):
    labels = _guess(tmp_path, _columns(0, 1, 255), palette=[9, 8, 7, 200, 100, 0, *[0] * (254 * 3)])
    assert (labels.colours, labels.ignore, labels.masks) == (((9, 8, 7), (200, 100, 0)), 255, "index")


def test_palettes_that_are_a_ramp_do_not(tmp_path):
    assert _guess(tmp_path, _columns(0, 1), palette=GREY_RAMP).colours == ((0, 0, 0), (128, 0, 0))


def test_black_and_white(tmp_path):
    labels = _guess(tmp_path, _columns(0, 255), _columns(255, 255))
    assert labels == LabelSet(("background", "foreground"), ((0, 0, 0), (255, 255, 255)), masks="colour")


def test_greys_far_apart_are_colours(tmp_path):
    labels = _guess(tmp_path, _columns(127, 255, 0, 127))
    assert (labels.colours, labels.masks) == (((0, 0, 0), (127, 127, 127), (255, 255, 255)), "colour")


def test_greys_near_to_each_other_are_told_apart(tmp_path):
    """Numbers of Cityscapes: too far apart for indices, and exact."""
    labels = _guess(tmp_path, _columns(7, 11, 21, 23, 26, 33))
    assert sorted(labels.colours) == [(value,) * 3 for value in (7, 11, 21, 23, 26, 33)]


def test_colours_without_what_lies_between(tmp_path):
    """Blue covers most; black comes first, being a background; smooth edges and single pixels are no classes."""
    red, blue, black = (255, 0, 0), (0, 0, 255), (0, 0, 0)
    mask = _columns(red, blue, blue, black)
    mask[:, 9] = (215, 0, 40)
    mask[0, 0] = (0, 255, 0)
    labels = _guess(tmp_path, mask)
    assert (labels.colours, labels.masks, labels.ignore) == ((black, blue, red), "colour", None)


def test_smooth_masks(tmp_path):
    discs = Image.new("RGB", (400, 400))
    draw = ImageDraw.Draw(discs)
    draw.ellipse([20, 20, 200, 200], fill=(128, 64, 128))
    draw.ellipse([180, 180, 390, 390], fill=(220, 20, 60))
    labels = _guess(tmp_path, np.array(discs.resize((150, 150), Image.Resampling.BICUBIC)))
    assert labels.colours == ((0, 0, 0), (220, 20, 60), (128, 64, 128))


def test_masks_as_jpeg_are_colours(tmp_path):
    labels = _guess(tmp_path, _columns(0, 255), suffix="jpg")
    assert (labels.colours, labels.masks) == (((0, 0, 0), (255, 255, 255)), "colour")


def test_the_colour_of_unlabelled_pixels_is_no_class(tmp_path):
    labels = _guess(tmp_path, _columns((0, 0, 0), VOID_COLOUR, (0, 200, 0)))
    assert (labels.colours, labels.ignore) == (((0, 0, 0), (0, 200, 0)), 255)


def test_colours_in_one_file_make_the_indices_of_others_colours(tmp_path):
    labels = _guess(tmp_path, _columns((0, 200, 0), (0, 0, 0)), _columns(0, 0))
    assert (labels.colours, labels.masks) == (((0, 0, 0), (0, 200, 0)), "colour")


def test_numbers_of_objects_are_refused(tmp_path):
    Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="400 classes: are they numbers of objects"):
        data.propose_labels([tmp_path / "a.png"])


def test_numbers_far_apart_are_told(tmp_path):
    Image.fromarray(np.repeat(np.array([[0, 1000, 11000]], np.uint16), 4, axis=0)).save(tmp_path / "a.png")
    labels = data.propose_labels([tmp_path / "a.png"])
    assert (labels.to_dict()["values"], len(labels), labels.masks) == ([0, 1000, 11000], 3, "index")


def test_one_class_alone_is_no_guess(tmp_path):
    """Indices saved as JPEG, and a mask in the channel for transparency."""
    Image.fromarray(np.uint8(_columns(0, 1, 2))).save(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="one class alone .*JPEG changes indices"):
        data.propose_labels([tmp_path / "a.jpg"])
    Image.merge("RGBA", [Image.new("L", (30, 20), 255)] * 3 + [Image.fromarray(np.uint8(_columns(0, 255, 0)))]).save(
        tmp_path / "b.png"
    )
    with pytest.raises(InputError, match="one class alone .*a channel for transparency is not read"):
        data.propose_labels([tmp_path / "b.png"])


def test_what_is_wrong_names_the_file(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="a.png: does not decode"):
        data.propose_labels([tmp_path / "a.png"])
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"a.png: .*\(and 1 more masks that cannot be read\)"):
        data.propose_labels([tmp_path / "a.png", tmp_path / "b.png"])
    with pytest.raises(InputError, match="there are no masks"):
        data.propose_labels([])


@pytest.mark.parametrize("name", ["clothes_dir", "faces_dir", "camvid_dir"])
def test_real_masks(name, request):
    """Of clothes the last of 59 classes is absent; of CamVid, class 11 is `ignore` for those who know."""
    folder = request.getfixturevalue(name)
    truth = LabelSet.load(folder / "labels.json")
    found = data.propose_labels(data.mask_files(folder))
    assert found.masks == truth.masks
    assert len(found) == {"clothes_dir": len(truth) - 1, "faces_dir": len(truth), "camvid_dir": 12}[name]
    if name == "faces_dir":
        near = found.from_colours(np.array([truth.colours]))[0]
        assert sorted(near[0]) == list(range(len(truth)))


def test_a_folder_without_labels_says_how_to_get_them(tmp_path):
    dataset(tmp_path)
    (tmp_path / "labels.json").unlink()
    with pytest.raises(
        InputError, match=r"labels.json: no such file; `python tools/check.py .* --propose` guesses one"
    ):
        data.open_source(tmp_path, "train")


def test_what_no_split_holds(tmp_path):
    images = dataset(tmp_path, split="train") / "images"
    assert data.unused_images(tmp_path) == {}
    (images / ".hidden").mkdir()
    (images / "empty").mkdir()
    (images / "train" / "a.jpg").rename(images / "a.jpg")
    why = {"a.jpg": "lies beside the folders of the splits", "empty": "holds no images"}
    assert data.unused_images(tmp_path) == {str(images / name): reason for name, reason in why.items()}
    assert data.split_names(tmp_path) == ["train"]


def test_masks_behind_links_count(tmp_path):
    dataset(tmp_path / "there", split="train")
    (tmp_path / "here" / "masks").mkdir(parents=True)
    (tmp_path / "here" / "masks" / "train").symlink_to(tmp_path / "there" / "masks" / "train")
    assert [path.name for path in data.mask_files(tmp_path / "here")] == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize("also", ["JPEGImages", "masks", "labels.json", "train.shards.json"])
def test_images_beside_a_data_set_are_not_taken_for_it(also, tmp_path):
    dataset(tmp_path / "set", split=".")
    photos = tmp_path / "set" / "images"
    assert [path.name for path in data.plain_images(photos)] == ["a.jpg", "b.jpg", "c.jpg"]
    (tmp_path / "one").mkdir()
    photos.rename(tmp_path / "one" / "images")
    assert len(data.plain_images(tmp_path / "one")) == 3
    (tmp_path / "one" / also).mkdir()
    assert data.plain_images(tmp_path / "one") == []


def test_names_of_splits(tmp_path):
    assert data.split_names("nuclei") == ["train", "val"]
    assert data.split_names(dataset(tmp_path / "flat", split=".")) == [None]
    assert data.split_names(dataset(tmp_path / "split", split="mine")) == ["mine"]
    with pytest.raises(InputError, match="no such folder"):
        data.split_names(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="name the splits"):
        data.split_names("tfds:anything")


def test_palettes_that_differ_are_colours(tmp_path):
    """A program that reduces each mask to its own palette numbers the same colours anew."""
    red, blue = (200, 0, 0), (0, 0, 200)
    for number, palette in enumerate([(0, 0, 0, *red, *blue), (0, 0, 0, *blue, *red)]):
        mask = Image.fromarray(np.repeat(np.arange(3, dtype=np.uint8), 40).reshape(12, 10), "P")
        mask.putpalette(palette)
        mask.save(tmp_path / f"{number}.png")
    labels = data.propose_labels(sorted(tmp_path.iterdir()))
    assert labels.masks == "colour"
    assert set(labels.colours) == {(0, 0, 0), red, blue}
