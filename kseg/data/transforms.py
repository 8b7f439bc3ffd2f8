"""Random changes of a training sample, as pure functions of TensorFlow ops.

A transform is any function `(image, label, seed) -> (image, label)`: image uint8 or float32 [H, W, 3] in 0..255, label
int32 [H, W], seed integer [2]. The same seed gives the same change, in tf.data and outside. Bind the settings with
functools.partial. Labels are only ever moved or taken from the nearest pixel, never mixed.
"""

import math
from typing import NamedTuple

from kseg.data.backend import tensorflow

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def random_crop(image, label, seed, *, crop_px, scales=(0.75, 1.5), flips="horizontal", ignore=None, margin_px=0):
    """Random zoom, crop and flip in one interpolation.

    A window of whole pixels is resized to `crop_px`, so the zoom is rounded to one that makes the window whole, and
    at the window's sides there is no pixel beyond to interpolate with. Where the window reaches beyond the image, the
    image goes on as in a mirror (Ronneberger et al. 2015, section 2) and the labels there are `ignore`. Without an
    ignore index the labels are mirrored too, so that every pixel has the class of what it shows.

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
    place = crop_place(tf.shape(label), seed, crop_px=crop_px, scales=scales, flips=flips, margin_px=margin_px)
    image, label = (part_of(array, needed_part(place)) for array in (image, label))
    return cut(image, label, place, crop_px=[side + 2 * margin_px for side in crop_px], ignore=ignore)


def random_crop_of(source, index, seed, *, crop_px, scales, flips, margin_px=0):
    """`random_crop` of sample `index` of a source, which need read no more than the crop shows. In tf.data only."""
    size, read = source.open(index)
    place = crop_place(size, seed, crop_px=crop_px, scales=scales, flips=flips, margin_px=margin_px)
    sides = [side + 2 * margin_px for side in crop_px]
    return cut(*read(needed_part(place)), place, crop_px=sides, ignore=source.labels.ignore)


class Place(NamedTuple):
    """Where a crop lies, as int32 tensors [2] (vertical, horizontal); `flipped` is bool [2].

    Attributes:
        size: of the image, in pixels.
        start: first pixel of the window that the crop shows; negative where that begins beyond the image.
        window: size of the window, in pixels of the image.
        flipped: whether the crop shows it mirrored.
    """

    size: object
    start: object
    window: object
    flipped: object


def crop_place(size, seed, *, crop_px, scales, flips, margin_px=0):
    """The Place that `random_crop` would choose in an image of `size` (int32 [2]) for a seed; see there."""
    tf = tensorflow()
    drawn = tf.random.stateless_uniform([5], seed)
    low, high = (math.log(scale) for scale in scales)
    step = tf.exp(-(low + drawn[0] * (high - low)))  # pixels of the image a pixel of the crop
    window = tf.maximum(tf.cast(tf.round(step * tf.constant(crop_px, tf.float32)), tf.int32), 1)
    room = size - window  # negative: the window is larger than the image, which then lies anywhere in it
    move = tf.cast(drawn[1:3] * tf.cast(tf.abs(room) + 1, tf.float32), tf.int32)
    flipped = (drawn[3:5] < 0.5) & tf.constant([flips == "all", flips in ("horizontal", "all")])
    margin = tf.cast(tf.round(step * margin_px), tf.int32)
    return Place(size, tf.minimum(room, 0) + move - margin, window + 2 * margin, flipped)


def _is_inside(place):
    """bool [2]: whether the window lies in the image, vertically and horizontally."""
    return (place.start >= 0) & (place.start + place.window <= place.size)


def needed_part(place):
    """int32 [4]: (top, left, height, width) of the part of the image that `cut` needs."""
    tf = tensorflow()
    inside = _is_inside(place)
    return tf.concat([tf.where(inside, place.start, 0), tf.where(inside, place.window, place.size)], 0)


def part_of(array, box):
    """The part `box` (top, left, height, width) of an image [H, W, C] or a label [H, W]."""
    top, left, height, width = tensorflow().unstack(box)
    return array[top : top + height, left : left + width]


def cut(image, label, place, *, crop_px, ignore):
    """The crop at a Place.

    Args:
        image: uint8 or float32 [h, w, 3], `needed_part` of the image.
        label: integer [h, w], the same part.
        place: Place.
        crop_px, ignore: see `random_crop`; the same for the result.
    """
    tf = tensorflow()
    inside = _is_inside(place)
    start = tf.where(inside, 0, place.start)  # in the part
    size, all_inside = tf.shape(label), tf.reduce_all(inside)

    shown = image
    for axis in (0, 1):  # each alone, because columns are gathered forty times as slowly as rows
        shown = _mirrored(shown, start[axis] + tf.range(place.window[axis]), inside[axis], axis)
    for axis in (0, 1):
        shown = _reversed(shown, place.flipped[axis], axis)
    crop = tf.image.resize(tf.ensure_shape(shown, [None, None, 3]), crop_px)

    rows, columns = (start[axis] + _nearest(place, axis, crop_px[axis]) for axis in (0, 1))
    # Turned, because whole rows are gathered faster than single pixels.
    turned = tf.gather(tf.transpose(tf.gather(label, mirror(rows, size[0]))), mirror(columns, size[1]))
    nearest = tf.cast(tf.transpose(turned), tf.int32)
    if ignore is None:
        return crop, nearest

    def marked():
        real = ((rows >= 0) & (rows < size[0]))[:, None] & ((columns >= 0) & (columns < size[1]))
        return tf.where(real, nearest, ignore)

    return crop, tf.cond(all_inside, lambda: nearest, marked)


def _mirrored(image, positions, inside, axis):
    """The image at `positions` along an axis, mirrored beyond its sides; all of it where it is `inside`."""
    tf = tensorflow()
    return tf.cond(inside, lambda: image, lambda: tf.gather(image, mirror(positions, tf.shape(image)[axis]), axis=axis))


def _reversed(image, flipped, axis):
    tf = tensorflow()
    return tf.cond(flipped, lambda: tf.reverse(image, [axis]), lambda: image)


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
    pixels = tf.cast(image, tf.float32)
    luma = tf.tile(tf.constant(_LUMA)[:, None], [1, 3])  # [3 from, 3 to]
    # One axis after the other: TensorFlow adds up long rows many times faster than triples.
    mean = tf.tensordot(tf.reduce_mean(tf.reduce_mean(pixels, axis=0), axis=0), tf.constant(_LUMA), 1)
    matrix = light * gain * (colour * tf.eye(3) + (1.0 - colour) * luma)
    offset = light * (1.0 - gain) * mean
    pixels = tf.clip_by_value(_times(pixels, matrix) + offset, 0.0, 255.0)
    return tf.ensure_shape(pixels, image.shape), label


def _times(pixels, matrix):
    """Each colour of float32 [H, W, 3] times `matrix` [3, 3].

    Eight pixels at once, where the width allows it, with eight copies of the matrix along a diagonal: half the time of
    a product with three columns.
    """
    tf = tensorflow()
    together = 8 if pixels.shape[1] is not None and pixels.shape[1] % 8 == 0 else 1
    diagonal = tf.reshape(tf.eye(together)[:, None, :, None] * matrix[None, :, None, :], [3 * together] * 2)
    return tf.reshape(tf.matmul(tf.reshape(pixels, [-1, 3 * together]), diagonal), tf.shape(pixels))


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


def _nearest(place, axis, crop):
    """int32 [crop]: which pixel of the window is nearest to each of the crop's, with half-pixel centres."""
    tf = tensorflow()
    window = place.window[axis]
    nearest = ((2 * tf.range(crop) + 1) * window) // (2 * crop)
    return tf.where(place.flipped[axis], window - 1 - nearest, nearest)


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
