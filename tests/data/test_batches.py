"""Training and evaluation batches: shapes, order, and the same sequence from the same seed."""

from functools import partial

import numpy as np
import pytest
import tensorflow as tf
from handmade import LABELS, dataset, indices, picture

from kseg import data
from kseg.labels import LabelSet

PLAIN = {"brightness": 0, "contrast": 0, "saturation": 0, "scales": (1.0, 1.0), "flips": "none"}


def _numbered(count, ignore=255, size=(8, 8)):
    """Images whose grey value is their number."""
    images = [np.full((*size, 3), i, np.uint8) for i in range(count)]
    labels = LabelSet.numbered(3, ignore)
    return data.arrays(images, [np.full(size, i % 3, np.uint8) for i in range(count)], labels)


def _collect(batches):
    return [(np.asarray(images), np.asarray(labels)) for images, labels in batches]


def _order(source, **settings):
    batches = data.training_batches(source, (8, 8), **settings, **PLAIN)
    return [np.round(images[:, 4, 4, 0]).astype(int).tolist() for images, _ in _collect(batches)]


def test_batches_have_the_promised_types(tmp_path):
    source = data.open_source(dataset(tmp_path), "train")
    batches = data.training_batches(source, (16, 20), batch=2, flips="all")
    assert batches.element_spec[0] == tf.TensorSpec((2, 16, 20, 3), tf.float32)
    assert batches.element_spec[1] == tf.TensorSpec((2, 16, 20), tf.int32)
    assert len(batches) == data.steps_per_epoch(source, 2) == 1
    [(images, labels)] = _collect(batches)
    assert images.min() >= 0
    assert 1 < images.max() <= 255
    assert set(np.unique(labels)) <= {0, 1, 2, 255}


def test_each_epoch_takes_other_full_batches_of_different_samples():
    order = _order(_numbered(10), batch=3, epochs=4, seed=1)
    assert len(order) == 12
    epochs = [[number for taken in order[3 * i : 3 * i + 3] for number in taken] for i in range(4)]
    assert all(len(set(epoch)) == 9 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert set().union(*epochs) == set(range(10))


def test_one_seed_gives_one_sequence(tmp_path):
    source = data.open_source(dataset(tmp_path), "train")
    make = partial(data.training_batches, source, (16, 16), batch=2, epochs=3)
    first, again, other = (_collect(make(seed=seed)) for seed in (5, 5, 6))
    for (images, labels), (images_again, labels_again) in zip(first, again, strict=True):
        np.testing.assert_array_equal(images, images_again)
        np.testing.assert_array_equal(labels, labels_again)
    assert any(not np.array_equal(a[0], b[0]) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("scales", [(0.4, 0.6), (1.0, 3.0)])
def test_a_crop_of_files_is_that_of_the_whole_images(tmp_path, scales):
    source = data.open_source(dataset(tmp_path, size=(40, 50)), "train")
    whole = data.arrays(*zip(*(source.load(i) for i in range(3)), strict=True), source.labels)
    settings = {"crop_px": (24, 16), "batch": 3, "epochs": 4, "scales": scales, "flips": "all"}
    for (images, labels), (expected, expected_labels) in zip(
        *(_collect(data.training_batches(one, **settings)) for one in (source, whole)), strict=True
    ):
        np.testing.assert_array_equal(images, expected)
        np.testing.assert_array_equal(labels, expected_labels)


def test_starting_at_a_later_epoch_gives_the_tail(tmp_path):
    source = data.open_source(dataset(tmp_path, names=tuple("abcde")), "train")
    make = partial(data.training_batches, source, (16, 16), batch=2, seed=3, epochs=5, flips="all")
    whole, tail = _collect(make()), _collect(make(first_epoch=2))
    assert len(whole) == 10
    assert len(tail) == 6
    for (images, labels), (tail_images, tail_labels) in zip(whole[4:], tail, strict=True):
        np.testing.assert_array_equal(images, tail_images)
        np.testing.assert_array_equal(labels, tail_labels)


def test_fewer_samples_than_a_batch_fill_it():
    source = _numbered(3)
    order = _order(source, batch=8, epochs=2)
    assert data.steps_per_epoch(source, 8) == 1
    assert [len(batch) for batch in order] == [8, 8]
    assert all(sorted(np.bincount(batch)) == [2, 3, 3] for batch in order)
    source = data.arrays([picture(20, 20, seed=i) for i in range(3)], [indices(20, 20)] * 3, LABELS)
    images = _collect(data.training_batches(source, (8, 8), batch=8))[0][0]
    assert len({image.tobytes() for image in images}) == 8  # each copy is changed in another way


def test_a_large_seed_and_one_sample():
    assert len(_order(_numbered(1), batch=1, seed=2**40, epochs=3)) == 3


def test_own_transforms_take_the_place_of_ours():
    def darker(image, label, seed):
        return tf.cast(image, tf.float32) / 2, label

    source = _numbered(4)
    crop = partial(data.random_crop, crop_px=(4, 4), scales=(1.0, 1.0), ignore=255)
    batches = data.training_batches(source, (4, 4), batch=4, transforms=[crop, darker])
    [(images, _)] = _collect(batches)
    assert sorted(np.round(images[:, 0, 0, 0], 2)) == [0, 0.5, 1, 1.5]


def test_a_transform_of_another_size_is_refused():
    batches = data.training_batches(_numbered(4), (4, 4), batch=2, transforms=[lambda i, label, s: (i, label)])
    with pytest.raises(tf.errors.InvalidArgumentError, match="not compatible with expected shape"):
        list(batches)


MISTAKES = {
    "`crop_px` must be": {"crop_px": (0, 4)},
    "`batch` must be": {"batch": 0},
    "`first_epoch` must be": {"first_epoch": 2, "epochs": 2},
    "`seed` must be": {"seed": -1},
    "`scales` must be": {"scales": (2.0, 1.0)},
    "`flips` must be": {"flips": "vertical"},
    "`elastic_px` must be": {"elastic_px": float("nan")},
    "`border_weight` must be": {"border_weight": -1.0},
    "`border_sigma_px` must be": {"border_sigma_px": 0.0},
    "`border_background` must be": {"border_weight": 1.0, "border_background": 3},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_arguments_out_of_range(message):
    arguments = {"crop_px": (4, 4), "batch": 2, **MISTAKES[message]}
    with pytest.raises(ValueError, match=message):
        data.training_batches(_numbered(2), **arguments)


def test_evaluation_keeps_order_and_size(tmp_path):
    source = data.open_source(dataset(tmp_path), "train")
    batches = data.evaluation_batches(source)
    assert len(batches) == 3
    for index, (images, labels) in enumerate(_collect(batches)):
        image, label = source.load(index)
        assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(images[0], image)
        np.testing.assert_array_equal(labels[0], label)


def _mixed_sizes(ignore):
    sizes = [(5, 6), (7, 4), (3, 3)]
    images = [picture(*size, seed=i) for i, size in enumerate(sizes)]
    return data.arrays(images, [indices(*size) for size in sizes], LabelSet.numbered(3, ignore))


def test_evaluation_pads_with_ignore():
    source = _mixed_sizes(ignore=99)
    shapes = [images.shape for images, _ in _collect(data.evaluation_batches(source, 2))]
    assert shapes == [(2, 7, 6, 3), (1, 3, 3, 3)]
    images, labels = _collect(data.evaluation_batches(source, 2))[0]
    np.testing.assert_array_equal(labels[0, :5], source.load(0)[1])
    assert (labels[0, 5:] == 99).all()
    assert (labels[1, :, 4:] == 99).all()
    assert (images[1, :, 4:] == 0).all()


def test_evaluation_without_ignore_pads_nothing():
    shapes = [images.shape for images, _ in _collect(data.evaluation_batches(_mixed_sizes(ignore=None), 2))]
    assert shapes == [(1, 5, 6, 3), (1, 7, 4, 3), (1, 3, 3, 3)]
    shapes = [images.shape for images, _ in _collect(data.evaluation_batches(_numbered(5, ignore=None), 2))]
    assert shapes == [(2, 8, 8, 3), (2, 8, 8, 3), (1, 8, 8, 3)]


def test_evaluation_batches_of_files_of_one_size(tmp_path):
    labels = LabelSet(LABELS.names, LABELS.colours)
    source = data.open_source(dataset(tmp_path, labels=labels), "train")
    assert [len(images) for images, _ in data.evaluation_batches(source, 2)] == [2, 1]


def test_keras_fit_takes_the_stream(tmp_path):
    import keras

    source = data.open_source(dataset(tmp_path), "train")
    model = keras.Sequential([keras.layers.Input((None, None, 3)), keras.layers.Conv2D(256, 1)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    batches = data.training_batches(source, (8, 8), batch=1, epochs=2)
    steps = data.steps_per_epoch(source, 1)
    history = model.fit(
        batches,
        steps_per_epoch=steps,
        epochs=2,
        verbose=0,
        shuffle=False,
        validation_data=data.evaluation_batches(source),
    )
    assert len(history.history["loss"]) == 2


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_shards_make_up_the_batches_of_one_process(tmp_path, count):
    source = data.open_source(dataset(tmp_path), "train")
    make = partial(data.training_batches, source, (16, 16), batch=4, epochs=3, first_epoch=1, seed=5)
    shards = [_collect(make(shard=(index, count))) for index in range(count)]
    whole = _collect(make())
    assert all(len(shard) == len(whole) for shard in shards)
    for step, (images, labels) in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([shard[step][0] for shard in shards]), images)
        np.testing.assert_array_equal(np.concatenate([shard[step][1] for shard in shards]), labels)


def test_a_shard_reads_only_its_own_part():
    source, read = _numbered(8), []
    load = source.load
    source.load = lambda index: read.append(index) or load(index)
    order = _order(source, batch=4, shard=(1, 2), seed=1)
    assert sorted(read) == sorted(number for taken in order for number in taken)
    assert len(read) == 4


@pytest.mark.parametrize("shard", [(0, 3), (2, 2), (-1, 2), (0, 0)])
def test_shards_are_even(shard):
    with pytest.raises(ValueError, match="`shard` must be"):
        data.training_batches(_numbered(8), (8, 8), batch=4, shard=shard)
