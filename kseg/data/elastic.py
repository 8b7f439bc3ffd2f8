"""Elastic deformation: smooth random displacements, for tissue and other things without a fixed shape."""

import math

from kseg.data.backend import tensorflow
from kseg.data.transforms import mirror

# How far beyond the crop the deformation may reach into the image, in standard deviations of the displacement.
_REACH = 3.0


def elastic_margin(sigma_px):
    """Pixels that a crop should be wider on each side, so that its deformation shows the image and no mirrored border.

    Three standard deviations: 3 of 1000 random vectors reach further, and `random_elastic` mirrors there.
    """
    return math.ceil(_REACH * sigma_px)


def random_elastic(image, label, seed, *, sigma_px, grid=3, margin_px=0, ignore=None):
    """Move every pixel by a smooth random displacement.

    Displacement vectors are drawn at grid x grid nodes, spread evenly over the result from corner to corner, each
    component normal with the standard deviation `sigma_px`. Between them they are interpolated bicubically, beyond the
    outer nodes as if these were repeated. Nodes that lie closer than about 4 sigma_px make folds likely.

    Where the result reaches beyond the image, the image goes on as in a mirror and the labels there are `ignore`;
    without an ignore index they are mirrored too, as in `random_crop`.

    Args:
        image: uint8 or float32 [H, W, 3], any size.
        label: int32 [H, W].
        seed: integer [2].
        sigma_px: standard deviation of the displacement in pixels, >= 0; 0 leaves everything in its place.
        grid: number of nodes along each axis, at least 2.
        margin_px: pixels to cut off on each side. The displacements still reach into them (see `elastic_margin`).
        ignore: index of unlabelled pixels, or None.
    Returns:
        (float32 [H - 2 margin_px, W - 2 margin_px, 3], bilinear; int32 of the same size, nearest pixel, never mixed).
    Raises:
        ValueError: an argument is out of its range.
    Reference: Ronneberger et al. 2015, section 3.1 (3 x 3 grid, 10 pixels).
    """
    _check(sigma_px, grid, margin_px)
    tf = tensorflow()
    shape = tf.shape(label)
    height, width = shape[0], shape[1]
    result = [shape[axis] - 2 * margin_px for axis in (0, 1)]
    nodes = sigma_px * tf.random.stateless_normal([2, grid, grid], seed)
    nodes = tf.pad(nodes, [[0, 0], [1, 1], [1, 1]], "SYMMETRIC")  # repeats the outer nodes: [2, grid + 2, grid + 2]
    moves = tf.matmul(tf.matmul(_cubic(result[0], grid), nodes), _cubic(result[1], grid), transpose_b=True)
    rows = moves[0] + tf.range(margin_px, height - margin_px, dtype=tf.float32)[:, None]  # where to look: [h, w]
    columns = moves[1] + tf.range(margin_px, width - margin_px, dtype=tf.float32)
    inside = _within(rows, height) & _within(columns, width)
    rows, columns = mirror(rows, height), mirror(columns, width)
    nearest = tf.cast(tf.round(rows), tf.int32) * width + tf.cast(tf.round(columns), tf.int32)
    moved_label = tf.gather(tf.reshape(label, [-1]), nearest)
    if ignore is not None:
        moved_label = tf.where(inside, moved_label, ignore)
    known = [None if side is None else side - 2 * margin_px for side in label.shape]
    moved = _bilinear(tf.cast(image, tf.float32), rows, columns)
    return tf.ensure_shape(moved, [*known, 3]), tf.ensure_shape(moved_label, known)


def _cubic(size, grid):
    """float32 [size, grid + 2]: the share of each node, and of one more at both ends, in each of `size` places.

    The cubic convolution of Keys 1981 with a = -1/2.
    """
    tf = tensorflow()
    step = (grid - 1) / tf.cast(tf.maximum(size - 1, 1), tf.float32)
    places = tf.cast(tf.range(size), tf.float32)[:, None] * step
    distance = tf.abs(places - tf.range(-1.0, grid + 1.0))
    near = (1.5 * distance - 2.5) * distance**2 + 1.0
    far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
    return tf.where(distance < 1.0, near, tf.where(distance < 2.0, far, 0.0))


def _within(positions, size):
    """Whether positions (pixel centres are whole numbers) lie on the image."""
    tf = tensorflow()
    return (positions >= -0.5) & (positions < tf.cast(size, tf.float32) - 0.5)


def _bilinear(image, rows, columns):
    """The image (float32 [H, W, 3]) at positions inside it, float32 [h, w] each -> [h, w, 3].

    Gathering whole pixels is faster than any other way that TensorFlow offers on a CPU (among them: plane by plane,
    and tf.image.crop_and_resize with a box for each pixel).
    """
    tf = tensorflow()
    shape = tf.shape(image)
    height, width = shape[0], shape[1]
    top, left = tf.cast(tf.floor(rows), tf.int32), tf.cast(tf.floor(columns), tf.int32)
    down = (rows - tf.cast(top, tf.float32))[..., None]
    right = (columns - tf.cast(left, tf.float32))[..., None]
    below = tf.minimum(top + 1, height - 1) * width
    beside = tf.minimum(left + 1, width - 1)
    top = top * width
    pixels = tf.reshape(image, [-1, 3])
    upper = _mix(tf.gather(pixels, top + left), tf.gather(pixels, top + beside), right)
    lower = _mix(tf.gather(pixels, below + left), tf.gather(pixels, below + beside), right)
    return _mix(upper, lower, down)


def _mix(first, second, share):
    return first + share * (second - first)


def _check(sigma_px, grid, margin_px):
    if not 0.0 <= sigma_px < math.inf:
        raise ValueError(f"`sigma_px` must be a finite number >= 0. Received: {sigma_px}")
    if grid < 2:
        raise ValueError(f"`grid` must be at least 2. Received: {grid}")
    if margin_px < 0:
        raise ValueError(f"`margin_px` must be at least 0. Received: {margin_px}")
