"""Resizing in NumPy, equal to `tf.image.resize(method="bilinear", antialias=False)` and to `method="nearest"`.

Pillow's BILINEAR widens its filter when it shrinks a picture and so gives other values than the networks were
trained and exported with; hence this file.
"""

import numpy as np

# Scores of a large photo do not fit twice into memory: they are made in strips of about this many values.
_STRIP_VALUES = 4_000_000


def resize(values, size_px):
    """Resize with half-pixel centres, without antialiasing; beyond the border the edge value counts.

    Args:
        values: uint8 or float [H, W, C].
        size_px: (height, width) of the result.
    Returns:
        float32 [height, width, C], an array of its own.
    """
    height, width = size_px
    if values.shape[:2] == (height, width):
        return np.array(values, np.float32)
    result = np.empty((height, width, values.shape[2]), np.float32)
    for rows in strips(size_px, values.shape[2]):
        result[rows] = resize_rows(values, size_px, rows)
    return result


def resized_argmax(scores, size_px):
    """`resize(scores, size_px).argmax(-1)` as int32 [height, width], a strip of rows at a time to spare memory."""
    result = np.empty(size_px, np.int32)
    for rows in strips(size_px, scores.shape[2]):
        result[rows] = resize_rows(scores, size_px, rows).argmax(-1)
    return result


def resize_nearest(classes, size_px):
    """Resize by the nearest neighbour with half-pixel centres: what indices need, between which nothing lies.

    Args:
        classes: integer [H, W].
        size_px: (height, width) of the result.
    Returns:
        [height, width] of the same dtype; `classes` itself where it has that size.
    """
    if classes.shape == tuple(size_px):
        return classes
    # floor((i + 0.5) * source / target), in whole numbers: a rounded half would choose another pixel.
    rows, columns = (
        (2 * np.arange(target) + 1) * source // (2 * target)
        for source, target in zip(classes.shape, size_px, strict=True)
    )
    return classes[rows[:, None], columns[None, :]]


def strips(size_px, channels):
    """Slices over the rows of an image [height, width, channels], each covering a bounded number of values."""
    height, width = size_px
    step = max(1, _STRIP_VALUES // (width * channels))
    return [slice(start, min(start + step, height)) for start in range(0, height, step)]


def resize_rows(values, size_px, rows):
    """The part `rows` (a slice with a start and a stop) of `resize(values, size_px)`: float32 [rows, width, C]."""
    upper, lower, down = _taps(values.shape[0], size_px[0], rows)
    left, right, across = _taps(values.shape[1], size_px[1], slice(0, size_px[1]))
    picked = _mix(values[upper], values[lower], down[:, None, None])  # [rows, W, C]
    return _mix(picked.take(left, axis=1), picked.take(right, axis=1), across[None, :, None])  # [rows, width, C]


def _taps(source, target, part):
    """For each target position: the two source positions it lies between, and the weight of the second."""
    position = (np.arange(part.start, part.stop) + 0.5) * (source / target) - 0.5
    first = np.floor(position)
    weight = (position - first).astype(np.float32)
    return (
        np.clip(first, 0, source - 1).astype(np.int64),
        np.clip(first + 1, 0, source - 1).astype(np.int64),
        weight,
    )


def _mix(first, second, weight):
    """first + (second - first) * weight, in float32, with one temporary array."""
    first = first.astype(np.float32, copy=False)
    second = second.astype(np.float32)
    second -= first
    second *= weight
    second += first
    return second
