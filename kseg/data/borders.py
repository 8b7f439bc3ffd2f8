"""Weights that make a network see the narrow gaps between neighbouring cells."""

import math

import numpy as np

from kseg.errors import need

# Distances count up to this many sigma. What is left out of a weight is less than exp(-REACH**2 / 2) of w0: 0.0004.
_REACH = 4.0


def border_weights(label, *, w0=10.0, sigma_px=5.0, background=0, ignore=None):
    """1 + w0 exp(-(d1 + d2)^2 / (2 sigma^2)): high where two cells are close to each other.

    d1 and d2 are the distances from the pixel to the nearest and the second nearest cell: to the centre of its closest
    pixel, 0 for a pixel of the cell itself. So the weight passes the border of a cell without a jump, and does not draw
    the border to either side. A cell is a connected region (over edges, not corners) of one class; where there
    are fewer than two within reach, the weight is 1. Sums d1 + d2 above 4 sigma may be left out: the weight is low by
    less than 0.0004 w0.

    Args:
        label: integer [H, W], class indices.
        w0: the largest addition, >= 0.
        sigma_px: how fast it falls with the distance, in pixels, above 0.
        background: class that is no cell, such as what lies between the cells; all other classes are cells.
        ignore: index of unlabelled pixels, which are no cell either, or None.
    Returns:
        float32 [H, W], from 1 to 1 + w0.
    Raises:
        ValueError: `w0` or `sigma_px` is out of its range.
        ImportError: OpenCV is not installed.
    Reference: Ronneberger et al. 2015, equation 2. Departs: the class weight w_c is 1, since the losses have class
    weights of their own.
    """
    _check(w0, sigma_px)
    cv2 = need("cv2", "data")
    reach = math.ceil(_REACH * sigma_px)
    first = np.full(label.shape, np.inf, np.float32)  # d1 squared, so far
    second = first.copy()  # d2 squared, so far
    for index in np.unique(label):
        if index in (background, ignore):
            continue
        mask = (label == index).astype(np.uint8)
        count, cells, boxes, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
        for cell in range(1, count):  # 0 is the rest
            left, top, width, height = boxes[cell][:4]
            rows = slice(max(top - reach, 0), top + height + reach)
            columns = slice(max(left - reach, 0), left + width + reach)
            outside = (cells[rows, columns] != cell).astype(np.uint8)
            distance = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            # OpenCV's roots differ in their last digits from call to call; the squares are whole numbers.
            squared = np.rint(distance**2)
            nearest, next_nearest = first[rows, columns], second[rows, columns]
            np.minimum(next_nearest, np.maximum(nearest, squared), out=next_nearest)
            np.minimum(nearest, squared, out=nearest)
    sums = np.sqrt(first) + np.sqrt(second)
    return (1.0 + w0 * np.exp(sums**2 / (-2.0 * sigma_px**2))).astype(np.float32)


def _check(w0, sigma_px):
    if not 0.0 <= w0 < math.inf:
        raise ValueError(f"`w0` must be a finite number >= 0. Received: {w0}")
    if not 0.0 < sigma_px < math.inf:
        raise ValueError(f"`sigma_px` must be a finite number above 0. Received: {sigma_px}")
