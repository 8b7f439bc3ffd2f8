"""Windows with blended seams, against the whole image."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest

from kseg.errors import CheckError, InputError
from kseg.labels import LabelSet
from kseg.runtime import windows

KERNEL = np.random.default_rng(5).normal(0, 0.01, (3, 4)).astype(np.float32)


def photo(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def local(image):
    """A network of 1x1 convolutions: [h, w, 3] -> [h, w, 4]."""
    return np.tanh(image.astype(np.float32) @ KERNEL)


def blurred(radius):
    """A network that sees `radius` pixels around each, with zeros beyond the border."""

    def run(image):
        height, width = image.shape[:2]
        padded = np.pad(image.astype(np.float32), [(radius, radius), (radius, radius), (0, 0)])
        steps = range(2 * radius + 1)
        return sum(padded[y : y + height, x : x + width] * (1 + y - x / 2) for y in steps for x in steps) @ KERNEL

    return run


def pooled(image):
    """A network that knows where its grid of 8 x 8 cells lies."""
    height, width = image.shape[:2]
    padded = np.pad(image.astype(np.float32), [(0, -height % 8), (0, -width % 8), (0, 0)])
    cells = padded.reshape(padded.shape[0] // 8, 8, padded.shape[1] // 8, 8, 3).max((1, 3))
    return (cells.repeat(8, 0).repeat(8, 1)[:height, :width]) @ KERNEL


def together(scores_of, image, window_px, overlap_px, classes=4):
    """The scores of all windows as one array; each pixel must come once."""
    result = np.full((*image.shape[:2], classes), np.nan, np.float32)
    for rows, columns, scores in windows.sliding(scores_of, image, window_px, overlap_px):
        assert np.isnan(result[rows, columns]).all()
        result[rows, columns] = scores
    return result


SIZES = [(1, 1), (7, 100), (64, 64), (65, 63), (97, 131), (200, 33)]


@pytest.mark.parametrize("size_px", SIZES)
@pytest.mark.parametrize(("window_px", "overlap_px"), [((64, 64), 16), ((40, 64), 39), ((33, 17), 0), ((9, 9), 1)])
def test_a_local_network_says_the_same_as_for_the_whole_image(size_px, window_px, overlap_px):
    image = photo(*size_px)
    np.testing.assert_allclose(together(local, image, window_px, overlap_px), local(image), atol=1e-6)


@pytest.mark.parametrize("size_px", SIZES)
@pytest.mark.parametrize(("window_px", "overlap_px"), [((64, 64), 16), ((40, 64), 39), ((33, 17), 0), ((9, 9), 1)])
def test_weights_sum_to_one(size_px, window_px, overlap_px):
    ones = together(lambda part: np.ones((*part.shape[:2], 1)), photo(*size_px), window_px, overlap_px, classes=1)
    np.testing.assert_allclose(ones, 1, atol=1e-6)


def test_weights_fade_from_one_window_to_the_next():
    first, second = windows._spans(96, 64, 32)
    # Over the 32 pixels of both: 8 of the first alone, 16 that fade as sin^2, 8 of the second alone.
    np.testing.assert_array_equal(second.weights[:8], 0)
    np.testing.assert_array_equal(second.weights[24:], 1)
    np.testing.assert_allclose(second.weights[8:24], np.sin(np.pi / 2 * (np.arange(16) + 0.5) / 16) ** 2, atol=1e-6)
    np.testing.assert_allclose(first.weights[32:] + second.weights[:32], 1, atol=1e-6)


def test_a_network_that_sees_a_quarter_of_the_overlap_has_no_seams():
    image = photo(150, 211)
    np.testing.assert_allclose(together(blurred(4), image, (64, 64), 16), blurred(4)(image), rtol=1e-5, atol=1e-4)


def test_a_network_that_sees_further_differs_at_the_seams_only():
    image, overlap = photo(150, 211), 16
    whole, found = blurred(8)(image), together(blurred(8), image, (64, 64), overlap)
    wrong = np.abs(found - whole).max(-1) > 1e-3
    shared = np.zeros(wrong.shape, bool)  # what two windows or more have seen
    for axis, side in enumerate(wrong.shape):
        spans = list(windows._spans(side, 64, overlap))
        for one, other in pairwise(spans):
            seam = [slice(None), slice(None)]
            seam[axis] = slice(other.start, one.part.stop)
            shared[tuple(seam)] = True
    assert wrong.any()
    assert not (wrong & ~shared).any()


def test_windows_lie_on_the_grid_of_a_network_that_pools():
    image = photo(150, 211)
    np.testing.assert_allclose(together(pooled, image, (64, 64), 24), pooled(image), rtol=1e-5, atol=1e-4)


def test_windows_have_one_size_but_for_the_last():
    sizes = set()

    def watched(part):
        sizes.add(part.shape[:2])
        return local(part)

    together(watched, photo(1000, 700), (128, 96), 32)
    heights, widths = ({size[axis] for size in sizes} for axis in (0, 1))
    assert max(heights) == 128
    assert max(widths) == 96
    assert min(heights) > 128 - windows.GRID_PX
    assert min(widths) > 96 - windows.GRID_PX
    assert len(sizes) <= 4


class Endless:
    """An image on a disk, [height, width, 3], of which only the windows are ever in memory."""

    def __init__(self, height, width):
        self.shape = (height, width, 3)

    def __getitem__(self, part):
        height, width = (len(range(side)[piece]) for side, piece in zip(self.shape, part, strict=False))
        return np.full((height, width, 3), part[0].start % 251, np.uint8)


def test_memory_does_not_grow_with_the_height():
    def peak(height):
        tracemalloc.start()
        pixels = 0
        for _, _, scores in windows.sliding(local, Endless(height, 500), (128, 128), 32):
            pixels += scores[..., 0].size
        assert pixels == height * 500
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    low, high = peak(1500), peak(12_000)
    assert high < 1.02 * low
    # A window of scores a few times, the seam (an overlap and a step of the grid) twice: 4 classes x 4 bytes.
    assert high < 16 * (4 * 128 * 128 + 2 * (32 + windows.GRID_PX) * 500)


def test_indices_are_those_of_the_whole_image():
    image = photo(100, 141)
    found = windows.indices(local, image, (64, 64), 16)
    assert found.dtype == np.int32
    assert (found == local(image).argmax(-1)).mean() > 0.9999


def test_scores_that_are_no_numbers():
    def broken(part):
        scores = local(part)
        scores[-1, -1, 0] = np.nan
        return scores

    with pytest.raises(CheckError, match="hold NaN or infinity"):
        windows.indices(broken, photo(100, 100), (64, 64), 16)


@pytest.mark.parametrize(
    ("window_px", "overlap_px", "message"),
    [
        ((0, 64), 0, r"each at least 1. Received: \(0, 64\)"),
        ((64,), 0, "must be .height, width."),
        ((64, 48), 48, "overlap of windows of 64x48 must be 0..47. Received: 48"),
        ((64, 48), -1, "Received: -1"),
    ],
)
def test_arguments_out_of_range(window_px, overlap_px, message):
    with pytest.raises(ValueError, match=message):
        list(windows.sliding(local, photo(9, 9), window_px, overlap_px))
    with pytest.raises(InputError, match=message):
        windows.Windowed(File(), window_px, overlap_px)


class File:
    """A stand-in for a file: as it is for any size, with `size_px` for that size alone."""

    labels, kind = LabelSet.numbered(4), "logits"

    def __init__(self, size_px=None):
        self.size_px = size_px

    def __call__(self, images):
        if self.size_px:
            assert images.shape[1:3] == self.size_px
        return np.stack([local(image) for image in images])


class TestPredictor:
    @pytest.mark.parametrize("size_px", [None, (48, 64)])
    @pytest.mark.parametrize("height", [5, 48, 147])
    def test_sees_images_of_every_size_in_its_own_pixels(self, size_px, height):
        images = np.stack([photo(height, 101, seed) for seed in (0, 1)])
        predictor = windows.Windowed(File(size_px), (48, 64), 16)
        expected = np.stack([local(image) for image in images])
        scores = predictor(images)
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, expected, atol=1e-6)
        np.testing.assert_array_equal(predictor.indices(images), scores.argmax(-1))
        assert predictor.size_px is None
        assert predictor.kind == "logits"

    def test_a_small_image_is_mirrored_not_blackened(self):
        seen = []

        class Watched(File):
            def __call__(self, images):
                seen.append(images)
                return super().__call__(images)

        image = photo(3, 64)
        windows.Windowed(Watched((8, 64)), (8, 64), 0)(image[None])
        np.testing.assert_array_equal(seen[0][0], image[[0, 1, 2, 2, 1, 0, 0, 1]])

    def test_another_fixed_size_is_told(self):
        with pytest.raises(InputError, match="takes windows of 48x64 only. Received: 64x64"):
            windows.Windowed(File((48, 64)), (64, 64), 16)
