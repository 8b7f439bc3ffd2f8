"""Raw RGB -> what a network was trained on."""

import keras
import numpy as np
from keras import ops

# Mean of the ImageNet training images in RGB (Simonyan & Zisserman 2015), which published VGG weights expect
# to be subtracted.
IMAGENET_MEAN = (123.68, 116.779, 103.939)

MODES = ("caffe", "tf", "unit")


@keras.saving.register_keras_serializable("kseg")
class Subtract(keras.layers.Layer):
    """float32 [B, H, W, C] - [C]: what the lowering leaves of a preprocessing.

    Args:
        offset: C numbers.
    """

    def __init__(self, offset, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        offset = np.asarray(offset, np.float32)
        self.offset = offset[:1] if (offset == offset[0]).all() else offset

    def call(self, images):
        return ops.subtract(images, self.offset)

    def get_config(self):
        return {**super().get_config(), "offset": self.offset.tolist()}


@keras.saving.register_keras_serializable("kseg")
class Preprocess(keras.layers.Layer):
    """Normalises images, always in float32: bfloat16 would round the mean 123.68 to 123.5.

    Args:
        mode: "caffe": RGB -> BGR minus the ImageNet mean (published VGG weights); "tf": to -1..1 (published MobileNet
            weights); "unit": to 0..1.
    Input: uint8 or float [B, H, W, C] in 0..255, under any dtype policy.
    Output: float32 [B, H, W, C]. In the modes of published weights, "caffe" and "tf", a grey image (C = 1) becomes
        three equal channels first. In "caffe", other channels than RGB keep their order, and the mean over the
        channels of ImageNet is subtracted from each.
    Raises:
        ValueError: an unknown mode.
    """

    def __init__(self, mode="caffe", **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        if mode not in MODES:
            raise ValueError(f"`mode` must be one of {', '.join(MODES)}. Received: {mode}")
        self.mode = mode

    def call(self, images):
        images = ops.cast(images, "float32")
        if self.mode != "unit" and images.shape[-1] == 1:
            images = ops.concatenate([images, images, images], axis=-1)
        if self.mode == "caffe":
            if images.shape[-1] != 3:
                return images - np.float32(np.mean(IMAGENET_MEAN))
            return ops.flip(images, axis=-1) - np.array(IMAGENET_MEAN[::-1], np.float32)
        if self.mode == "tf":
            return images / 127.5 - 1.0
        return images / 255.0

    def compute_output_shape(self, input_shape):
        repeated = self.mode != "unit" and input_shape[-1] == 1
        return (*input_shape[:-1], 3) if repeated else tuple(input_shape)

    def get_config(self):
        return {**super().get_config(), "mode": self.mode}
