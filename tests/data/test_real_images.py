"""Real photographs, palettes and noisy colour masks, where they are on this machine."""

import numpy as np
import pytest
import tensorflow as tf

from kseg import data

SETS = {"camvid": "val", "clothes": "all", "faces": "all", "membranes": "val", "nuclei": "val"}


@pytest.fixture(params=SETS)
def source(request, camvid_dir):
    return data.open_source(camvid_dir.parent / request.param, SETS[request.param])


def test_tensorflow_reads_the_same_pixels(source):
    few = min(8, len(source))
    samples = tf.data.Dataset.range(few).map(source.read, num_parallel_calls=2, deterministic=True)
    for index, (image, label) in enumerate(samples.as_numpy_iterator()):
        expected_image, expected_label = source.load(index)
        np.testing.assert_array_equal(image, expected_image)
        np.testing.assert_array_equal(label, expected_label)


def test_nothing_is_wrong_and_colour_noise_is_reported(source):
    kept = source.take(range(min(12, len(source))))
    report = data.scan(kept, progress=False)
    assert report.problems == ()
    assert (report.inexact_pixels > 0) == (source.labels.masks == "colour")
    assert sum(n > 0 for n in report.class_pixels) >= 2
    assert (report.ignored_pixels > 0) <= (source.labels.ignore is not None)


def test_one_training_batch(source):
    [images, labels] = next(iter(data.training_batches(source, (96, 128), batch=2)))
    assert images.shape == (2, 96, 128, 3)
    assert float(tf.math.reduce_std(images)) > 5
    allowed = set(range(len(source.labels))) | {source.labels.ignore}
    assert set(np.unique(labels)) <= allowed
