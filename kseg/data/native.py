"""Image and mask files -> tensors inside tf.data, with TensorFlow's own decoders where these are right.

libjpeg and libpng decode to the same pixels in TensorFlow as in Pillow, if TensorFlow is asked for libjpeg's accurate
integer transform (its default differs by up to 4 grey values).
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from kseg.data.backend import tensorflow
from kseg.data.files import read_image, read_mask
from kseg.data.headers import GREY, JPEG, PILLOW, PNG, image_route, mask_route
from kseg.data.transforms import part_of

# How a whole file ends. TensorFlow's errors do not name the file, so a file that ends in another way goes through
# Pillow, which decodes it all the same if it can, and whose errors are ours.
_ENDS = {JPEG: b"\xff\xd9", PNG: b"\x00\x00\x00\x00IEND\xaeB`\x82"}
_ENDS[GREY] = _ENDS[PNG]


def reader(images, masks, labels):
    """Look at every header, and return the function that opens sample `index` in tf.data.

    Args:
        images, masks: paths (str), one of each a sample.
        labels: LabelSet.
    Returns:
        Function int64 scalar tensor -> (size, read), see `Source.open`. A file that cannot be read or a mask of another
        size raises a tf.errors.OpError that names it.
    """
    tf = tensorflow()
    with ThreadPoolExecutor() as pool:
        image_routes = list(pool.map(image_route, images))
        mask_routes = list(pool.map(mask_route, masks)) if labels.masks == "index" else [PILLOW] * len(masks)

    # Bytes as long as possible: they are moved faster than int32.
    label_type = tf.uint8 if set(mask_routes) == {GREY} and labels.values is None else tf.int32
    classes = None if labels.values is None else tf.constant(labels.from_values(np.arange(256)))

    def pillow_image(path):
        return read_image(path.decode())

    def pillow_mask(path):
        return read_mask(path.decode(), labels)[0][..., None].astype(label_type.as_numpy_dtype)

    def read_png(contents):
        return tf.io.decode_png(contents, channels=3)

    def read_grey(contents):
        label = tf.cast(tf.io.decode_png(contents, channels=1), label_type)
        return label if classes is None else tf.gather(classes, label)

    def not_yet(contents):
        return tf.zeros([0, 0, 3], tf.uint8)

    open_image = _decoder(images, image_routes, {JPEG: not_yet, PNG: read_png}, pillow_image, tf.uint8, 3)
    open_mask = _decoder(masks, mask_routes, {GREY: read_grey}, pillow_mask, label_type, 1)
    paths = tf.constant(masks)

    def open_sample(index):
        (image, contents), (label, _) = open_image(index), open_mask(index)
        is_jpeg = tf.equal(tf.shape(image)[0], 0)
        size = tf.cond(is_jpeg, lambda: tf.image.extract_jpeg_shape(contents)[:2], lambda: tf.shape(image)[:2])
        label = label[..., 0]
        same = tf.reduce_all(tf.equal(size, tf.shape(label)))
        message = ["mask of another size than its image:", paths[index], tf.shape(label), size]
        with tf.control_dependencies([tf.debugging.Assert(same, message)]):
            size = tf.identity(size)

        def read(box=None):
            if box is None:
                whole = tf.cond(is_jpeg, lambda: _jpeg(contents), lambda: image)
                return tf.ensure_shape(whole, [None, None, 3]), tf.cast(label, tf.int32)
            seen = tf.cond(is_jpeg, lambda: _jpeg_part(contents, box, size[1]), lambda: part_of(image, box))
            return tf.ensure_shape(seen, [None, None, 3]), part_of(label, box)

        return size, read

    return open_sample


def _jpeg(contents):
    return tensorflow().io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE")


def _jpeg_part(contents, box, width):
    """The part `box` of a JPEG, the same pixels as in the whole.

    libjpeg skips what lies outside as far as it can. Halved chroma is interpolated from its neighbours, which lack at
    the sides of what it decodes, so more columns are taken there; of two or fewer of them it interpolates nothing.
    """
    tf = tensorflow()
    top, left, height, wide = tf.unstack(box)
    first, end = tf.maximum(left - 4, 0), tf.minimum(left + wide + 4, width)
    window = tf.stack([top, first, height, end - first])
    seen = tf.image.decode_and_crop_jpeg(contents, window, channels=3, dct_method="INTEGER_ACCURATE")
    return seen[:, left - first : left - first + wide]


def _decoder(paths, routes, native, pillow, dtype, channels):
    """Function index -> (decoded file [H, W, channels] of `dtype`, its bytes), by the routes that occur in these files.

    What Pillow decodes comes without its bytes.
    """
    tf = tensorflow()
    kinds = sorted(set(routes))
    paths = tf.constant(paths)
    positions = tf.constant(np.array([kinds.index(route) for route in routes], np.int32))

    def by_pillow(path):
        return tf.ensure_shape(tf.numpy_function(pillow, [path], dtype), [None, None, channels]), tf.constant(b"")

    def by_tensorflow(path, kind):
        contents = tf.io.read_file(path)
        length, end = tf.strings.length(contents), _ENDS[kind]
        whole = tf.equal(tf.strings.substr(contents, tf.maximum(length - len(end), 0), len(end)), end)
        return tf.cond(whole, lambda: (native[kind](contents), contents), lambda: by_pillow(path))

    def decode(index):
        path = paths[index]
        branches = [
            (lambda: by_pillow(path)) if kind == PILLOW else (lambda kind=kind: by_tensorflow(path, kind))
            for kind in kinds
        ]
        decoded, contents = branches[0]() if len(branches) == 1 else tf.switch_case(positions[index], branches)
        return tf.ensure_shape(decoded, [None, None, channels]), contents

    return decode
