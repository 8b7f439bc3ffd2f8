"""Parts and sums of splits: which samples they hold, and that these read the same."""

import numpy as np
import pytest

from kseg import data
from kseg.data.splits import open_split
from kseg.errors import InputError
from kseg.labels import LabelSet

COUNTS = {"train": 6, "val": 3, "one": 1}


def _open_arrays(split):
    """Samples called SPLIT0, SPLIT1, ..., each of another grey."""
    if split not in COUNTS:
        raise InputError(f"no split {split}")
    images = [np.full((2, 3, 3), 10 * len(split) + i, np.uint8) for i in range(COUNTS[split])]
    masks = [np.full((2, 3), i % 2, np.uint8) for i in range(COUNTS[split])]
    names = [f"{split}{i}" for i in range(COUNTS[split])]
    return data.arrays(images, masks, LabelSet.numbered(2), names)


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("one", "one0"),
        ("one[:]", "one0"),
        ("train[2:4]", "train2 train3"),
        ("train[4:]", "train4 train5"),
        ("train[-2:]", "train4 train5"),
        ("train[:-4]", "train0 train1"),
        ("train[:50%]", "train0 train1 train2"),
        ("train[50%:]", "train3 train4 train5"),
        ("val[:33%]", "val0"),
        ("val[33%:]", "val1 val2"),
        ("train[-34%:]", "train4 train5"),
        ("train[:2]+val[2:]", "train0 train1 val2"),
        ("one + val", "one0 val0 val1 val2"),
        ("train[:1]+train[5:]", "train0 train5"),
    ],
)
def test_the_samples_of_a_split(split, names):
    source = open_split(split, _open_arrays)
    assert source.names == tuple(names.split())
    assert len(source) == len(source.names)
    whole = {name: (part, i) for part in COUNTS for i, name in enumerate(_open_arrays(part).names)}
    batches = iter(data.evaluation_batches(source))
    for index, (name, (images, labels)) in enumerate(zip(source.names, batches, strict=True)):
        part, place = whole[name]
        image, label = _open_arrays(part).load(place)
        for found in (source.load(index), (images[0], labels[0])):
            np.testing.assert_array_equal(found[0], image)
            np.testing.assert_array_equal(found[1], label)
        np.testing.assert_array_equal(source.load_image(index), image)
        assert source.size(index) == (2, 3)


def test_parts_make_up_the_whole():
    for share in range(9, 92):  # one sample at least on either side
        first, second = (open_split(split, _open_arrays).names for split in (f"train[:{share}%]", f"train[{share}%:]"))
        assert first + second == _open_arrays("train").names


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("train[:2", r"split 'train\[:2': not understood; such as train\[:80%\]"),
        ("train[2]", "not understood"),
        ("train[:2]+", "not understood"),
        ("train[a:b]", "not understood"),
        ("train[:0.5]", "not understood"),
        ("[:2]", "not understood"),
        ("train[6:]", r"train\[6:\] is empty; train has 6 images"),
        ("train[3:3]", "is empty"),
        ("val[:10%]", "is empty; val has 3 images"),
        ("train[-5%:]", r"train\[-5%:\] is empty; train has 6 images"),
        ("train[:120%]", "120% is beyond 100%"),
        ("trian[:2]", "no split trian"),
    ],
)
def test_what_is_no_split(split, message):
    with pytest.raises(InputError, match=message):
        open_split(split, _open_arrays)


def test_files_of_a_folder(tiny_data):
    train, val = (data.open_source(tiny_data, split) for split in ("train", "val"))
    source = data.open_source(tiny_data, "val+train[4:]")
    assert isinstance(source, data.FileSource)  # of which training decodes parts
    expected = [val.files(i) for i in range(3)] + [train.files(i) for i in (4, 5)]
    assert [source.files(i) for i in range(5)] == expected
    np.testing.assert_array_equal(source.load_image(3), train.load_image(4))
    images, labels = next(iter(data.training_batches(source, (32, 32), 2)))
    assert images.shape == (2, 32, 32, 3)
    assert labels.shape == (2, 32, 32)


def test_samples_that_two_splits_share(tiny_data):
    def shared(*splits):
        return data.shared(*(data.open_source(tiny_data, split) for split in splits))

    assert shared("train", "val") == 0  # files of the same names in two folders
    assert shared("train[:3]", "train[3:]") == 0
    assert shared("train[:4]", "val+train[3:]") == 1
    assert shared("train", "train") == 6


def test_joining_takes_one_label_set():
    one, other = (
        data.arrays([np.zeros((2, 2, 3), np.uint8)], [np.zeros((2, 2), np.uint8)], LabelSet.numbered(n)) for n in (2, 3)
    )
    with pytest.raises(InputError, match="different label sets"):
        data.join([one, other])
    assert data.join([one]) is one
