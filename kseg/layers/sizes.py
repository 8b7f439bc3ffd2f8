"""Any image size in, the same size out."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("kseg")
class PadToStride(keras.layers.Layer):
    """Pads zeros at the bottom and the right, so that height and width become multiples of the stride.

    Args:
        stride: in pixels.
    Input: [B, H, W, C]. Output: [B, ceil(H / stride) * stride, ceil(W / stride) * stride, C].
    Raises:
        ValueError: the stride is not a whole number from 1.
    """

    def __init__(self, stride, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(stride, int) or stride < 1:
            raise ValueError(f"`stride` must be a whole number from 1. Received: {stride}")
        self.stride = stride

    def call(self, images):
        height, width = ops.shape(images)[1:3]
        if _known(height, width) and not (height % self.stride or width % self.stride):
            return images  # nothing to pad: leave no operator in an exported file
        if _known(height, width):
            return ops.pad(images, ((0, 0), (0, -height % self.stride), (0, -width % self.stride), (0, 0)))
        # As much as may be needed, and cut: padded by a computed number, TensorFlow's converters lose the channels.
        most = self.stride - 1
        padded = ops.pad(images, ((0, 0), (0, most), (0, most), (0, 0)))
        return padded[:, : height + -height % self.stride, : width + -width % self.stride, :]

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        return (batch, self._up(height), self._up(width), channels)

    def _up(self, size):
        return None if size is None else size + -size % self.stride

    def get_config(self):
        return {**super().get_config(), "stride": self.stride}


@keras.saving.register_keras_serializable("kseg")
class CropLike(keras.layers.Layer):
    """Cuts the first input to the height and width of the second.

    Args:
        offset: (top, left) in pixels, where the cut begins, or "centre"; of an odd surplus the larger half goes at the
            bottom and the right.
    Input: [[B, H, W, C], [B, h, w, anything]] with h + top <= H and w + left <= W. Output: [B, h, w, C].
    Raises:
        ValueError: another offset; or the sizes are known and the first input is too small.
    """

    def __init__(self, offset=(0, 0), **kwargs):
        super().__init__(**kwargs)
        if offset != "centre" and (isinstance(offset, str) or len(offset) != 2 or min(offset) < 0):
            raise ValueError(f'`offset` must be (top, left) from 0, or "centre". Received: {offset}')
        self.offset = offset if offset == "centre" else tuple(offset)

    def call(self, inputs):
        images, reference = inputs
        full, cut = ops.shape(images)[1:3], ops.shape(reference)[1:3]
        self._check(full, cut)
        if _known(*full, *cut) and tuple(full) == tuple(cut):
            return images  # nothing to cut: leave no operator in an exported file
        if self.offset == "centre":
            top, left = (full[0] - cut[0]) // 2, (full[1] - cut[1]) // 2
        else:
            top, left = self.offset
        return images[:, top : top + cut[0], left : left + cut[1], :]

    def compute_output_shape(self, input_shape):
        images, reference = input_shape
        self._check(images[1:3], reference[1:3])
        return (images[0], reference[1], reference[2], images[3])

    def _check(self, full, cut):
        offset = (0, 0) if self.offset == "centre" else self.offset
        for size, wanted, start in zip(full, cut, offset, strict=True):
            # A slice beyond the end would be shorter than promised, without a word.
            if _known(size, wanted) and start + wanted > size:
                raise ValueError(f"cannot cut {tuple(cut)} at {self.offset} out of {tuple(full)} (height, width)")

    def get_config(self):
        return {**super().get_config(), "offset": self.offset}


@keras.saving.register_keras_serializable("kseg")
class BilinearUpsampling(keras.layers.Layer):
    """Multiplies height and width by bilinear interpolation between pixel centres, like `UpSampling2D`.

    Departs from keras.layers.UpSampling2D, which in Keras 3.15 fails in a TensorFlow graph for any image size.

    Args:
        factor: of the enlargement.
    Input: [B, H, W, C]. Output: [B, factor H, factor W, C].
    Raises:
        ValueError: the factor is not a whole number from 1.
    """

    def __init__(self, factor=2, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(factor, int) or factor < 1:
            raise ValueError(f"`factor` must be a whole number from 1. Received: {factor}")
        self.factor = factor

    def call(self, images):
        height, width = ops.shape(images)[1:3]
        if _known(height, width):
            size = (self.factor * height, self.factor * width)
            return ops.image.resize(images, size, data_format="channels_last")
        return _enlarge(_enlarge(images, self.factor, axis=1), self.factor, axis=2)

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        return (batch, *(None if size is None else self.factor * size for size in (height, width)), channels)

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


# Its name, with a factor of two, in files of before.
keras.saving.get_custom_objects()["kseg>DoubleSize"] = BilinearUpsampling


def _enlarge(images, factor, axis):
    """Each pixel becomes `factor` many, on the way to its neighbours; at the border its own is repeated."""
    shape = list(ops.shape(images))
    size = shape[axis]
    places = ops.arange(size)
    before = ops.take(images, ops.maximum(places - 1, 0), axis=axis)
    after = ops.take(images, ops.minimum(places + 1, size - 1), axis=axis)
    ways = [(number + 0.5) / factor - 0.5 for number in range(factor)]
    pixels = [(1 - abs(way)) * images + abs(way) * (before if way < 0 else after) for way in ways]
    return ops.reshape(ops.stack(pixels, axis=axis + 1), (*shape[:axis], factor * size, *shape[axis + 1 :]))


def _known(*sizes):
    """Whether the sizes are numbers; in a graph for any image size they are tensors."""
    return all(isinstance(size, int) for size in sizes)
