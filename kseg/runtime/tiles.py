"""Labelling an image of any size in bounded memory, with a network that takes images of any size."""

import numpy as np

# Beyond this many pixels an image is labelled in tiles.
LARGEST_PX = 2**21
TILE_PX, OVERLAP_PX = 1024, 192


def in_tiles(classify, image):
    """The class of every pixel of an image.

    Up to LARGEST_PX pixels the image goes through in one piece. A larger one is cut into tiles; each is labelled
    with OVERLAP_PX of its surroundings, of which only the middle is kept. A network whose receptive field is wider
    than that says nearly the same along the seams, not exactly.

    Args:
        classify: function, image [h, w, 3] -> int [h, w].
        image: uint8 or float [H, W, 3].
    Returns:
        int32 [H, W].
    """
    height, width = image.shape[:2]
    result = np.empty((height, width), np.int32)
    tile_px = TILE_PX if height * width > LARGEST_PX else max(height, width)
    for top in range(0, height, tile_px):
        for left in range(0, width, tile_px):
            y0, x0 = max(0, top - OVERLAP_PX), max(0, left - OVERLAP_PX)
            bottom, right = min(height, top + tile_px), min(width, left + tile_px)
            classes = classify(image[y0 : bottom + OVERLAP_PX, x0 : right + OVERLAP_PX])
            result[top:bottom, left:right] = classes[top - y0 : bottom - y0, left - x0 : right - x0]
    return result
