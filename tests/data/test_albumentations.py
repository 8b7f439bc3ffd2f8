"""albumentations inside tf.data: repeatable with several threads, and padding is never labelled as a class."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import tensorflow as tf
from handmade import LABELS, dataset, indices, picture

from kseg import data
from kseg.labels import LabelSet

albumentations = pytest.importorskip("albumentations")

IMAGE, LABEL = picture(40, 52), indices(40, 52).astype(np.int32)


def _compose():
    return albumentations.Compose(
        [
            albumentations.HorizontalFlip(p=0.5),
            albumentations.Affine(rotate=(-30, 30), scale=(0.8, 1.2), fill_mask=255, p=1.0),
            albumentations.RandomBrightnessContrast(p=0.5),
            albumentations.RandomCrop(24, 24),
        ]
    )


def _stream(transform, threads):
    samples = tf.data.Dataset.range(48)
    samples = samples.map(lambda i: transform(tf.constant(IMAGE), tf.constant(LABEL), [i, 7]), threads, True)
    return list(samples.as_numpy_iterator())


def test_the_seed_alone_decides_with_one_thread_and_with_four():
    alone, together = (_stream(data.Albumentations(_compose(), ignore=255), threads) for threads in (1, 4))
    for (image, label), (image_again, label_again) in zip(alone, together, strict=True):
        np.testing.assert_array_equal(image, image_again)
        np.testing.assert_array_equal(label, label_again)
        assert (image.shape, image.dtype) == ((24, 24, 3), np.float32)
        assert (label.shape, label.dtype) == ((24, 24), np.int32)
        assert set(np.unique(label)) <= {0, 1, 2, 255}
    assert len({image.tobytes() for image, _ in alone}) > 40


def test_an_ignore_index_of_16_bits():
    compose = albumentations.Compose([albumentations.PadIfNeeded(50, 60, border_mode=0, fill_mask=65535)])
    _, label = data.Albumentations(compose, ignore=65535).apply(IMAGE, LABEL, 3)
    assert set(np.unique(label)) == {*np.unique(LABEL), 65535}


def test_in_the_training_stream(tmp_path):
    source = data.open_source(dataset(tmp_path), "train")
    transform = data.Albumentations(albumentations.Compose([albumentations.RandomCrop(16, 16)]), ignore=255)
    make = partial(data.training_batches, source, (16, 16), batch=1, epochs=3, transforms=[transform])
    whole, tail = list(make()), list(make(first_epoch=1))
    assert len(whole) == 9
    for (images, labels), (tail_images, tail_labels) in zip(whole[3:], tail, strict=True):
        np.testing.assert_array_equal(images, tail_images)
        np.testing.assert_array_equal(labels, tail_labels)


def test_after_one_of_our_transforms():
    crop = partial(data.random_crop, crop_px=(20, 20), ignore=255)
    flip = data.Albumentations(albumentations.Compose([albumentations.VerticalFlip(p=1.0)]))
    image, label = crop(tf.constant(IMAGE), tf.constant(LABEL), [1, 2])
    flipped, flipped_label = flip(image, label, [1, 2])
    np.testing.assert_array_equal(flipped, np.round(image)[::-1])
    np.testing.assert_array_equal(flipped_label, label[::-1])


@pytest.mark.parametrize(
    "part",
    [
        albumentations.Affine(rotate=30),
        albumentations.PadIfNeeded(64, 64),
        albumentations.RandomCrop(64, 64, pad_if_needed=True),
        albumentations.OneOf([albumentations.Rotate(30)]),
    ],
    ids=lambda part: type(part).__name__,
)
def test_padding_that_would_become_class_0_is_refused(part):
    compose = albumentations.Compose([part])
    with pytest.raises(ValueError, match="must have fill_mask=255"):
        data.Albumentations(compose, ignore=LABELS.ignore)
    data.Albumentations(compose)  # without an ignore index there is nothing to compare with


@pytest.mark.parametrize(
    "part",
    [
        albumentations.RandomCrop(8, 8),
        albumentations.PadIfNeeded(64, 64, fill_mask=255),
        albumentations.PadIfNeeded(64, 64, border_mode=4),
        albumentations.CoarseDropout(p=1.0),
    ],
    ids=lambda part: type(part).__name__,
)
def test_honest_padding_is_accepted(part):
    data.Albumentations(albumentations.Compose([part]), ignore=255)


def test_sixteen_bit_indices_survive():
    label = LABEL + 300
    flip = data.Albumentations(albumentations.Compose([albumentations.HorizontalFlip(p=1.0)]))
    np.testing.assert_array_equal(flip.apply(IMAGE, label, 0)[1], label[:, ::-1])


def test_not_a_compose():
    with pytest.raises(ValueError, match=r"`compose` must be an albumentations\.Compose"):
        data.Albumentations(albumentations.HorizontalFlip())


def test_a_missing_library_names_the_extra():
    code = (
        "import sys; sys.modules['albumentations'] = None\n"
        "from kseg import data\n"
        "try: data.Albumentations(None)\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install '.[data]'" in done.stdout


@pytest.mark.parametrize("ignore", [255, None])
@pytest.mark.parametrize("flips", ["none", "horizontal", "all"])
def test_the_equivalent_of_our_own_settings(flips, ignore):
    settings = {"scales": (0.5, 1.5), "flips": flips, "brightness": 0.2, "contrast": 0.2, "saturation": 0.2}
    transform = data.like_native((48, 48), **settings, ignore=ignore)
    seen = set()
    for image, label in _stream(transform, 2):
        assert (image.shape, label.shape) == ((48, 48, 3), (48, 48))
        assert 0 <= image.min() <= image.max() <= 255
        seen |= set(np.unique(label))
    assert seen == ({0, 1, 2, 255} if ignore else {int(index) for index in np.unique(LABEL)})


@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.75, 0.75), (1.5, 1.5), (0.75, 1.5)])
@pytest.mark.parametrize("ours", [True, False])
def test_a_mask_lies_where_its_image_does(scales, ours):
    """Image and mask both hold the column that each pixel comes from."""
    columns = np.tile(np.arange(120), (120, 1)).astype(np.int32)
    image = np.repeat(2 * columns[..., None], 3, 2).astype(np.uint8)
    labels = LabelSet(tuple(map(str, range(120))), tuple((index, 0, 0) for index in range(120)), ignore=255)
    settings = {"scales": scales, "flips": "none", "brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
    if not ours:
        settings = {"transforms": [data.like_native((64, 64), **settings, ignore=255)]}
    batches = data.training_batches(data.arrays([image], [columns], labels), (64, 64), 2, epochs=20, **settings)
    apart = []
    for images, masks in batches.as_numpy_iterator():
        seen = images[..., 0] / 2
        known = (masks > 2) & (masks < 117) & (seen > 2) & (seen < 117)  # away from the sides, and not filled up
        apart.append((masks - seen)[known])
    assert abs(np.concatenate(apart).mean()) < 0.1
    assert abs(np.concatenate(apart)).mean() < 0.35
