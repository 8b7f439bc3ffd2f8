"""Caches give the same samples, decode once, and notice a changed file."""

from functools import partial

import numpy as np
import pytest
from handmade import LABELS, dataset, indices, picture, save

from kseg import data
from kseg.errors import InputError
from kseg.labels import LabelSet


@pytest.fixture
def source(tmp_path):
    return data.open_source(dataset(tmp_path / "set"), "train")


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_the_same_training_stream(where, source, tmp_path):
    kept = data.cached(source, "memory" if where == "memory" else tmp_path / "cache")
    make = partial(data.training_batches, crop_px=(16, 16), batch=2, epochs=2)
    for (images, labels), (kept_images, kept_labels) in zip(make(source), make(kept), strict=True):
        np.testing.assert_array_equal(images, kept_images)
        np.testing.assert_array_equal(labels, kept_labels)


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_files_are_decoded_once(where, source, tmp_path, monkeypatch):
    kept = data.cached(source, "memory" if where == "memory" else tmp_path / "cache")
    expected = [kept.load(index) for index in range(3)]
    monkeypatch.setattr(type(source), "load", lambda self, index: pytest.fail("decoded again"))
    for index in range(3):
        image, label = kept.load(index)
        np.testing.assert_array_equal(image, expected[index][0])
        np.testing.assert_array_equal(label, expected[index][1])
        assert label.dtype == np.int32


def test_wrappers_keep_what_a_source_has(source):
    kept = data.cached(source, "memory")
    assert kept.names == source.names
    assert kept.labels == source.labels
    assert data.scan(kept) == data.scan(source)
    assert [images.shape for images, _ in data.evaluation_batches(kept, 2)] == [(2, 24, 30, 3), (1, 24, 30, 3)]


def test_a_changed_file_is_decoded_again(source, tmp_path):
    kept = data.cached(source, tmp_path / "cache")
    kept.load(0)
    mask = np.roll(indices(24, 30), 5)
    save(tmp_path / "set" / "masks" / "train" / "a.png", mask)
    save(tmp_path / "set" / "images" / "train" / "a.jpg", picture(24, 30, seed=9), quality=90)
    np.testing.assert_array_equal(kept.load(0)[1], mask)


def test_other_arrays_of_the_same_name(tmp_path):
    for shade in (10, 200):
        source = data.arrays([np.full((4, 5, 3), shade, np.uint8)], [np.zeros((4, 5), int)], LABELS)
        assert data.cached(source, tmp_path / "cache").load(0)[0].max() == shade


def test_a_damaged_cache_file_is_written_anew(source, tmp_path):
    kept = data.cached(source, tmp_path / "cache")
    expected = kept.load(0)
    [file] = (tmp_path / "cache").iterdir()
    for content in (b"", file.read_bytes()[:500], b"rubbish" * 100):
        file.write_bytes(content)
        np.testing.assert_array_equal(kept.load(0)[0], expected[0])


def test_kept_images_cannot_be_drawn_in(source):
    image, _ = data.cached(source, "memory").load(0)
    with pytest.raises(ValueError, match="read-only"):
        image[0] = 0


def test_the_callers_own_arrays_stay_theirs():
    image, mask = np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), int)
    data.cached(data.arrays([image], [mask], LabelSet.numbered(2)), "memory").load(0)
    image[0] = 1


def test_no_place_for_a_cache(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="no folder for a cache"):
        data.cached(source, tmp_path / "file")


def test_a_full_disk(tmp_path, small_disk):
    source = data.open_source(dataset(tmp_path / "large", size=(200, 200)), "train")
    kept = data.cached(source, small_disk)
    (small_disk / "filler").write_bytes(b"0" * (2**21 - 2**16))
    with pytest.raises(InputError, match="no space left"):
        kept.load(0)
