"""Prediction in overlapping windows with blended seams: images of any size, even ones that memory cannot hold.

    mask = np.lib.format.open_memmap("mask.npy", "w+", np.uint8, image.shape[:2])     # `image`: np.memmap [H, W, 3]
    predictor = kseg.runtime.load("unet.tflite")
    for rows, columns, scores in windows.sliding(lambda part: predictor(part[None])[0], image, (512, 512), 128):
        mask[rows, columns] = scores.argmax(-1)

Where windows overlap, their scores are averaged with weights that sum to one. Near its edge a window knows less than
its neighbour, so there its weight is zero: over the outer quarter of the overlap. Across the middle half of the
overlap one window fades into the next as sin^2, and the inner quarter is the one window's alone. Hence a network that
sees at most a quarter of the overlap around each pixel says the same as for the whole image, seams included.
"""

from bisect import bisect_left, bisect_right

import numpy as np

from kseg.errors import CheckError, InputError

# Beyond this many pixels an image is labelled in windows without being asked for.
LARGEST_PX = 2**21
WINDOW_PX, OVERLAP_PX = (1024, 1024), 256
# Windows begin at multiples of this: networks pool by up to 32, and pool otherwise where the grid lies otherwise.
GRID_PX = 32
NOT_FINITE = "the network's scores hold NaN or infinity: it has no classes to score"


def sliding(scores_of, image, window_px, overlap_px):
    """Scores of an image, window by window, top down and from left to right.

    Memory holds one window, its scores, and the scores of one seam across the image: (overlap_px + GRID_PX) x image
    width. The image's height does not count.

    Args:
        scores_of: function, part of the image [h, w, 3] -> float [h, w, classes]. h and w are those of the window;
            at the bottom and right edge of the image up to GRID_PX - 1 less, and less in a smaller image.
        image: [H, W, 3], an array or anything with a shape that gives an array when sliced by rows and columns.
        window_px: (height, width) of a window.
        overlap_px: least overlap of neighbours, smaller than both.
    Yields:
        (rows, columns, scores): two slices of the image and float32 [rows, columns, classes], blended. Each pixel
        comes exactly once.
    Raises:
        ValueError: no window, or an overlap that no window has room for.
    """
    _check(window_px, overlap_px)
    rows, columns = (_spans(*sides, overlap_px) for sides in zip(image.shape[:2], window_px, strict=True))
    columns = list(columns)
    below = None  # what the rows of windows above gave to those that come: [rows, W, classes]
    for row in rows:
        beside, seam = None, None
        for column in columns:
            scores = np.array(scores_of(np.asarray(image[row.part, column.part])), np.float32)
            scores *= row.weights[:, None, None]
            scores *= column.weights[None, :, None]
            if beside is not None:
                scores[:, : beside.shape[1]] += beside
            done, beside = scores[:, : column.own], scores[:, column.own :].copy()
            ours = slice(column.start, column.start + column.own)
            if below is not None:
                done[: len(below)] += below[:, ours]
            if row.own < len(done):
                if seam is None:
                    seam = np.empty((len(done) - row.own, image.shape[1], done.shape[2]), np.float32)
                seam[:, ours] = done[row.own :]
            yield slice(row.start, row.start + row.own), ours, done[: row.own]
        below = seam


def indices(scores_of, image, window_px=WINDOW_PX, overlap_px=OVERLAP_PX):
    """The class of every pixel, in windows: arguments and errors as `sliding`.

    Returns:
        int32 [H, W].
    Raises:
        CheckError: scores that are not finite.
    """
    result = np.empty(image.shape[:2], np.int32)
    for rows, columns, scores in sliding(scores_of, image, window_px, overlap_px):
        result[rows, columns] = finite(scores).argmax(-1)
    return result


def is_large(image):
    """Whether an image [H, W, ...] is labelled in windows without being asked for."""
    return image.shape[0] * image.shape[1] > LARGEST_PX


def finite(scores):
    """The scores themselves, or CheckError: the greatest of scores with NaN or infinity would be a class like any."""
    if not np.isfinite(scores).all():
        raise CheckError(NOT_FINITE)
    return scores


class Windowed:
    """A predictor that takes every image in windows.

    A file of a fixed size then sees the image in its own pixels, in windows of that size, instead of resized to it.

    Attributes:
        labels, kind: of the predictor within.
        size_px: None: images of every size.
    """

    size_px = None

    def __init__(self, predictor, window_px, overlap_px):
        """
        Args:
            predictor: what `kseg.runtime.load` or `kseg.evaluation.load_predictor` returns.
            window_px: (height, width); of a file of a fixed size, that size.
            overlap_px: least overlap of neighbours.
        Raises:
            InputError: an overlap not smaller than the window, or a file of another fixed size.
        """
        window_px, fixed = tuple(window_px), getattr(predictor, "size_px", None)
        try:
            _check(window_px, overlap_px)
        except ValueError as error:
            raise InputError(str(error)) from error
        if fixed not in (None, window_px):
            raise InputError(f"the file takes windows of {fixed[0]}x{fixed[1]} only. Received: {_by(window_px)}")
        self.labels, self.kind = predictor.labels, predictor.kind
        self._predictor, self._fixed = predictor, fixed
        self._window_px, self._overlap_px = window_px, overlap_px

    def __call__(self, images):
        """uint8 or float [B, H, W, 3] in 0..255 -> float32 scores [B, H, W, classes]."""
        scores = np.empty((*images.shape[:3], len(self.labels)), np.float32)
        for image, target in zip(images, scores, strict=True):
            for rows, columns, found in sliding(self._scores, image, self._window_px, self._overlap_px):
                target[rows, columns] = found
        return scores

    def indices(self, images):
        """The class of every pixel, int32 [B, H, W], without ever holding all the scores.

        Raises:
            CheckError: scores that are not finite.
        """
        return np.stack([indices(self._scores, image, self._window_px, self._overlap_px) for image in images])

    def _scores(self, part):
        height, width = part.shape[:2]
        if self._fixed:
            # What lacks to a whole window is the image mirrored, which looks like more of the image.
            lacking = [(0, side - here) for side, here in zip(self._fixed, (height, width), strict=True)]
            part = np.pad(part, [*lacking, (0, 0)], mode="symmetric")
        return self._predictor(part[None])[0][:height, :width]


class _Span:
    """One window along one axis.

    Attributes:
        start: where it begins.
        part: slice of the image.
        own: pixels before the next window's beginning: nothing is added to them later.
        weights: float32 [length]; over all windows they sum to one at each pixel.
    """

    def __init__(self, start, stop, own, weights):
        self.start, self.part, self.own, self.weights = start, slice(start, stop), own, weights


def _spans(side, window, overlap):
    """Yield the windows along an axis of `side` pixels, evenly spread over it."""
    grid = min(GRID_PX, window - overlap)
    last = max(0, -(-(side - window) // grid))  # where the last window begins, in steps of the grid
    count = 1 + -(-last // ((window - overlap) // grid))
    starts = [grid * (last * place // max(1, count - 1)) for place in range(count)]
    for start, following in zip(starts, [*starts[1:], side], strict=True):
        stop = min(start + window, side)
        total = np.zeros(stop - start)
        # Those that overlap this one, itself among them.
        for other in starts[bisect_right(starts, start - window) : bisect_left(starts, stop)]:
            first, end = max(start, other), min(stop, other + window)
            ramp = _ramp(other, min(other + window, side), side, overlap)
            total[first - start : end - start] += ramp[first - other : end - other]
        weights = _ramp(start, stop, side, overlap) / total
        yield _Span(start, stop, following - start, weights.astype(np.float32))


def _ramp(start, stop, side, overlap):
    """Weight of each pixel of a window before they are made to sum to one, float64 [stop - start]."""
    centre = np.arange(start, stop) + 0.5
    # At the border of the image no neighbour knows more.
    before = centre - start if start else np.full(len(centre), np.inf)
    after = stop - centre if stop < side else np.full(len(centre), np.inf)
    faded = np.clip((2 * np.minimum(before, after) - 0.5 * overlap) / max(overlap, 1), 0, 1)
    return np.sin(np.pi / 2 * faded) ** 2


def _check(window_px, overlap_px):
    if len(window_px) != 2 or not min(window_px) >= 1:
        raise ValueError(f"a window must be (height, width), each at least 1. Received: {window_px}")
    if not 0 <= overlap_px < min(window_px):
        raise ValueError(
            f"the overlap of windows of {_by(window_px)} must be 0..{min(window_px) - 1}. Received: {overlap_px}"
        )


def _by(size_px):
    return f"{size_px[0]}x{size_px[1]}"
