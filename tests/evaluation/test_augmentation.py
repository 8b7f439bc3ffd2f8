"""Views of an image and their mean, with predictors that are functions of NumPy."""

import numpy as np
import pytest

from kseg.errors import CheckError, InputError
from kseg.evaluation import Augmented, evaluate
from kseg.evaluation.augmentation import FLIPS, probabilities
from kseg.labels import LabelSet
from kseg.runtime import windows
from kseg.runtime.resize import resize

KERNEL = np.random.default_rng(2).normal(0, 0.01, (3, 4)).astype(np.float32)


def photos(height=18, width=25):
    return np.random.default_rng(0).integers(0, 256, (2, height, width, 3)).astype(np.uint8)


def local(images):
    """1x1 convolutions: a flipped image has the flipped scores."""
    return images.astype(np.float32) @ KERNEL


def uphill(images):
    """Scores that know up from down and left from right."""
    scores = local(images)
    height, width = scores.shape[1:3]
    return scores + np.arange(height)[:, None, None] / 9 - np.arange(width)[None, :, None] * np.arange(4) / 20


def softmax(scores):
    powers = np.exp(scores.astype(np.float64))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("flips", FLIPS)
def test_flips_are_undone(flips):
    found = Augmented(local, flips)(photos())
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, softmax(local(photos())), atol=1e-6)


def test_a_plain_function_can_be_evaluated():
    labels, images = LabelSet.numbered(4), photos()
    truth = local(images).argmax(-1)
    assert evaluate(Augmented(local, "horizontal"), [(images, truth)], labels).pixel_accuracy == 1


@pytest.mark.parametrize("flips", FLIPS)
def test_each_view_is_seen_once(flips):
    seen = []
    Augmented(lambda images: seen.append(images) or local(images), flips)(photos())
    assert len({(view.shape, view.tobytes()) for view in seen}) == len(seen) == len(FLIPS[flips])
    np.testing.assert_array_equal(seen[0], photos())
    for view in seen:
        np.testing.assert_array_equal(np.sort(view.ravel()), np.sort(photos().ravel()))
        assert view.dtype == np.uint8


@pytest.mark.parametrize("flips", FLIPS)
def test_an_even_image_gives_even_scores(flips):
    images = np.full((1, 18, 25, 3), 77, np.uint8)
    found = Augmented(local, flips, (0.6, 1.0, 1.7))(images)
    np.testing.assert_allclose(found, softmax(local(images)), atol=1e-6)


def test_against_plain_numpy():
    images = photos(20, 30)
    expected = np.zeros((2, 20, 30, 4))
    for size in ((10, 15), (20, 30), (25, 38)):
        small = np.stack([resize(image, size) for image in images])
        plain = softmax(uphill(small))
        mirrored = softmax(uphill(small[:, :, ::-1]))[:, :, ::-1]
        for one in (plain, mirrored):
            expected += np.stack([resize(scores, (20, 30)) for scores in one]) / 6
    found = Augmented(uphill, "horizontal", (0.5, 1, 1.25))(images)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)


def test_all_views_against_plain_numpy():
    images, expected = photos(12, 17), 0.0
    for turns in range(4):
        turned = np.rot90(images, turns, (1, 2))
        expected = expected + np.rot90(softmax(uphill(turned)), -turns, (1, 2))
        mirrored = np.rot90(images[:, ::-1], turns, (1, 2))
        expected = expected + np.rot90(softmax(uphill(mirrored)), -turns, (1, 2))[:, ::-1]
    np.testing.assert_allclose(Augmented(uphill, "all")(images), expected / 8, atol=1e-6)


class File:
    """A stand-in for a file: `kind` of scores, and `size_px` for one that resizes every image."""

    labels = LabelSet.numbered(4)

    def __init__(self, kind="logits", size_px=None):
        self.kind, self.size_px = kind, size_px

    def __call__(self, images):
        scores = local(images)
        if self.kind == "logits":
            return scores
        return softmax(scores) if self.kind == "probabilities" else np.eye(4)[scores.argmax(-1)]


@pytest.mark.parametrize("kind", ["logits", "probabilities", "labels"])
def test_every_kind_of_file(kind):
    expected = np.eye(4)[local(photos()).argmax(-1)] if kind == "labels" else softmax(local(photos()))
    np.testing.assert_allclose(probabilities(File(kind), photos()), expected, atol=1e-6)
    predictor = Augmented(File(kind), "all")
    np.testing.assert_allclose(predictor(photos()), expected, atol=1e-6)
    found = predictor.indices(photos())
    assert found.dtype == np.int32
    assert (found == expected.argmax(-1)).mean() > 0.99  # ties of equal votes
    assert (predictor.labels, predictor.kind) == (File.labels, "probabilities")


def test_a_fixed_size_has_flips_and_with_windows_scales():
    file = File(size_px=(16, 16))
    assert Augmented(file, "horizontal")(photos()).shape == (2, 18, 25, 4)
    with pytest.raises(InputError, match="resizes every image to 16x16, so scales need windows of 16x16"):
        Augmented(file, "horizontal", (1.0, 1.5))
    found = Augmented(windows.Windowed(file, (16, 16), 4), "horizontal", (1.0, 1.5))(photos())
    np.testing.assert_allclose(found, Augmented(File(), "horizontal", (1.0, 1.5))(photos()), atol=1e-6)


def test_large_images_go_through_in_windows(monkeypatch):
    seen = []
    predictor = Augmented(lambda images: seen.append(images.shape[1:3]) or local(images), "horizontal")
    images = photos(40, 1100)
    whole = predictor.indices(images)
    monkeypatch.setattr(windows, "LARGEST_PX", 1000)
    del seen[:]
    assert (predictor.indices(images) == whole).mean() > 0.999
    assert max(width for _, width in seen) <= 1024


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers(value):
    def broken(images):
        scores = local(images)
        scores[0, 3, 4, 1] = value  # minus infinity would be a probability of 0
        return scores

    with pytest.raises(CheckError, match="hold NaN or infinity"):
        Augmented(broken, "horizontal").indices(photos())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("vertical",), "one of none, horizontal, all. Received: vertical"),
        (("none", ()), "at least one"),
        (("none", (1.0, 0.0)), "factors above 0"),
        (("none", (float("nan"),)), "factors above 0"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(InputError, match=message):
        Augmented(local, *arguments)
