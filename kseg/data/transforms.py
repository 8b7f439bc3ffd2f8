"""Random changes of a training sample, as pure functions of TensorFlow ops.

A transform is any function `(image, label, seed) -> (image, label)`: image uint8 or float32 [H, W, 3] in 0..255, label
int32 [H, W], seed integer [2]. The same seed gives the same change, in tf.data and outside. Bind the settings with
functools.partial. Labels are only ever moved or taken from the nearest pixel, never mixed.
"""

from kseg.data.backend import tensorflow

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def random_crop(image, label, seed, *, crop_px, scales=(0.75, 1.5), flips="horizontal", ignore=None, margin_px=0):
    """Random zoom, crop and flip in one interpolation (tf.image.crop_and_resize).

    Where the crop reaches beyond the image, the image goes on as in a mirror (Ronneberger et al. 2015, section 2) and
    the labels there are `ignore`. Without an ignore index the labels are mirrored too, so that every pixel has the
    class of what it shows.

    Args:
        image: uint8 or float32 [H, W, 3], any size from 1x1.
        label: int32 [H, W].
        seed: integer [2].
        crop_px: (height, width) of the result.
        scales: smallest and largest zoom; 2.0 shows things twice as large. Drawn evenly in the logarithm.
        flips: "none", "horizontal", or "all" (vertical too); each with probability 1/2.
        ignore: index of unlabelled pixels, or None.
        margin_px: pixels around the crop that the result has beside it, on each side; the crop lies where it would
            without them.
    Returns:
        (float32 [*crop_px, 3], interpolated bilinearly with half-pixel centres; int32 [*crop_px], nearest pixel);
        with a margin, 2 margin_px more in height and width.
    """
    tf = tensorflow()
    zoom_at, *place_at, flip_y, flip_x = tf.unstack(tf.random.stateless_uniform([5], seed), 5)
    low, high = (tf.math.log(tf.constant(scale, tf.float32)) for scale in scales)
    step = tf.exp(-(low + zoom_at * (high - low)))  # source pixels a pixel of the crop
    shape = tf.shape(label)
    ends = [_ends(shape[axis], crop_px[axis], step, place_at[axis], margin_px) for axis in (0, 1)]
    crop_px = [side + 2 * margin_px for side in crop_px]
    image, label, starts = _covering(image, label, ends, ignore)
    shape = tf.shape(label)
    (top, bottom), (left, right) = (
        [(end - tf.cast(starts[axis], tf.float32)) / tf.cast(shape[axis] - 1, tf.float32) for end in ends[axis]]
        for axis in (0, 1)
    )
    if flips == "all":
        top, bottom = tf.cond(flip_y < 0.5, lambda: (bottom, top), lambda: (top, bottom))
    if flips in ("horizontal", "all"):
        left, right = tf.cond(flip_x < 0.5, lambda: (right, left), lambda: (left, right))
    box = [tf.stack([top, left, bottom, right])]
    image = tf.image.crop_and_resize(image[None], box, [0], crop_px, "bilinear")[0]
    label = tf.image.crop_and_resize(label[None, ..., None], box, [0], crop_px, "nearest")[0, ..., 0]
    return image, tf.cast(label, tf.int32)


def random_colour(image, label, seed, *, brightness=0.2, contrast=0.2, saturation=0.2):
    """Random brightness, contrast and saturation as one 3x3 matrix and an offset.

    With b, c, s drawn evenly from 1+-brightness, 1+-contrast, 1+-saturation: colours are blended with their luma
    (BT.601) by s, moved away from the image's mean luma by c, and multiplied by b; the result is clipped to 0..255.
    Grey stays grey, and a dark image stays visible: a fixed shift would cut off a fluorescence image altogether.

    Args:
        image: uint8 or float32 [H, W, 3].
        label: passed through.
        seed: integer [2].
        brightness, contrast, saturation: largest relative change, 0 for none.
    Returns:
        (float32 [H, W, 3], label).
    """
    tf = tensorflow()
    light, gain, colour = tf.unstack(tf.random.stateless_uniform([3], seed, -1.0, 1.0), 3)
    light, gain, colour = 1.0 + brightness * light, 1.0 + contrast * gain, 1.0 + saturation * colour
    pixels = tf.reshape(tf.cast(image, tf.float32), [-1, 3])
    luma = tf.tile(tf.constant(_LUMA)[:, None], [1, 3])  # [3 from, 3 to]
    mean = tf.tensordot(tf.reduce_mean(pixels, axis=0), tf.constant(_LUMA), 1)
    matrix = light * gain * (colour * tf.eye(3) + (1.0 - colour) * luma)
    offset = light * (1.0 - gain) * mean
    pixels = tf.clip_by_value(tf.matmul(pixels, matrix) + offset, 0.0, 255.0)
    return tf.ensure_shape(tf.reshape(pixels, tf.shape(image)), image.shape), label


def random_quarter_turn(image, label, seed):
    """Turn by 0, 90, 180 or 270 degrees, each as likely; for pictures without an up, such as microscopy.

    Args:
        image: [H, H, 3], any dtype; label: int32 [H, H]. seed: integer [2].
    Returns:
        (image, label) of the same shapes and dtypes.
    Raises:
        ValueError: the known shape is not square.
    """
    tf = tensorflow()
    height, width = image.shape[:2]
    if height != width:
        raise ValueError(f"`image` must be square to be turned. Received: {height}x{width}")
    turns = tf.random.stateless_uniform([], seed, 0, 4, tf.int32)
    turned, turned_label = tf.image.rot90(image, turns), tf.image.rot90(label[..., None], turns)[..., 0]
    return tf.ensure_shape(turned, image.shape), tf.ensure_shape(turned_label, label.shape)


def _ends(size, crop, step, place, margin):
    """Where, in image pixels, the centres of the first and last pixel of crop and margin lie along one axis.

    The crop's edge is put on a whole pixel, so that a crop without zoom needs no interpolation.
    """
    tf = tensorflow()
    room = tf.cast(size, tf.float32) - crop * step  # negative: the crop is larger than the image
    room = tf.where(room < 0, tf.math.ceil(room), tf.math.floor(room))
    edge = tf.floor(tf.minimum(room, 0.0) + place * (tf.abs(room) + 1.0))
    first = edge + 0.5 * step - 0.5
    return first - margin * step, first + (crop - 1 + margin) * step


def _covering(image, label, ends, ignore):
    """(image, label, [top, left] of these in the original) such that the crop lies inside, a pixel from the border.

    The pixel's margin keeps rounding errors from pushing a coordinate outside, where crop_and_resize would put its
    fill value.
    """
    tf = tensorflow()
    shape = tf.shape(label)
    starts = [tf.cast(tf.floor(first), tf.int32) - 1 for first, _ in ends]
    stops = [tf.cast(tf.math.ceil(last), tf.int32) + 2 for _, last in ends]
    inside = tf.reduce_all([starts[0] >= 0, starts[1] >= 0, stops[0] <= shape[0], stops[1] <= shape[1]])

    def mirrored():
        rows, columns = (tf.range(starts[axis], stops[axis]) for axis in (0, 1))
        positions = [mirror(rows, shape[0]), mirror(columns, shape[1])]
        wide, wide_label = (tf.gather(tf.gather(x, positions[0]), positions[1], axis=1) for x in (image, label))
        if ignore is not None:
            real = ((rows >= 0) & (rows < shape[0]))[:, None] & ((columns >= 0) & (columns < shape[1]))
            wide_label = tf.where(real, wide_label, ignore)
        return wide, wide_label, tf.stack(starts)

    return tf.cond(inside, lambda: (image, label, tf.zeros([2], tf.int32)), mirrored)


def mirror(positions, size):
    """Positions on an endless strip of the image and its mirror images -> positions in the image.

    Args:
        positions: int32, or float32 where whole numbers are the pixels' centres; any shape.
        size: int32 scalar, pixels of the image along this axis.
    Returns:
        The same dtype and shape, in 0 .. size - 1.
    """
    tf = tensorflow()
    size = tf.cast(size, positions.dtype)
    positions = tf.math.floormod(positions, 2 * size)
    positions = tf.minimum(positions, 2 * size - 1 - positions)
    # Only between two whole numbers, half a pixel beyond the last centre, is there anything left to limit.
    return tf.clip_by_value(positions, 0, size - 1)
