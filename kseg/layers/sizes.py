"""Any image size in, the same size out."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("kseg")
class PadToStride(keras.layers.Layer):
    """Pads zeros at the bottom and the right, so that height and width become multiples of the stride.

    Args:
        stride: in pixels.
    Input: [B, H, W, C]. Output: [B, ceil(H / stride) * stride, ceil(W / stride) * stride, C].
    """

    def __init__(self, stride, **kwargs):
        super().__init__(**kwargs)
        self.stride = stride

    def call(self, images):
        height, width = ops.shape(images)[1:3]
        if _known(height, width) and not (height % self.stride or width % self.stride):
            return images  # nothing to pad: leave no operator in an exported file
        return ops.pad(images, ((0, 0), (0, -height % self.stride), (0, -width % self.stride), (0, 0)))

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
        offset: (top, left) in pixels, where the cut begins, or "centre".
    Input: [[B, H, W, C], [B, h, w, anything]] with h + top <= H and w + left <= W. Output: [B, h, w, C].
    """

    def __init__(self, offset=(0, 0), **kwargs):
        super().__init__(**kwargs)
        if offset != "centre" and (isinstance(offset, str) or len(offset) != 2):
            raise ValueError(f'`offset` must be (top, left) or "centre". Received: {offset}')
        self.offset = offset if offset == "centre" else tuple(offset)

    def call(self, inputs):
        images, reference = inputs
        height, width = ops.shape(reference)[1:3]
        if _known(height, width) and tuple(images.shape[1:3]) == (height, width):
            return images
        if self.offset == "centre":
            full_height, full_width = ops.shape(images)[1:3]
            top, left = (full_height - height) // 2, (full_width - width) // 2
        else:
            top, left = self.offset
        return images[:, top : top + height, left : left + width, :]

    def compute_output_shape(self, input_shape):
        images, reference = input_shape
        return (images[0], reference[1], reference[2], images[3])

    def get_config(self):
        return {**super().get_config(), "offset": self.offset}


def _known(*sizes):
    """Whether the sizes are numbers; in a graph for any image size they are tensors."""
    return all(isinstance(size, int) for size in sizes)
