"""Raw RGB -> what a network was trained on."""

import keras
import numpy as np
from keras import ops

# Mean of the ImageNet training images in RGB (Simonyan & Zisserman 2015), which published VGG weights expect
# to be subtracted.
IMAGENET_MEAN = (123.68, 116.779, 103.939)

MODES = ("caffe", "tf", "unit")


@keras.saving.register_keras_serializable("kseg")
class Preprocess(keras.layers.Layer):
    """Normalises images, always in float32: half precision would round 123.68 to 123.5.

    Args:
        mode: "caffe": RGB -> BGR minus the ImageNet mean (published VGG weights); "tf": to -1..1 (published MobileNet
            weights); "unit": to 0..1.
    Input: uint8 or float [B, H, W, 3] in 0..255; "tf" and "unit" take any number of channels.
    Output: float32, same shape.
    Raises:
        ValueError: an unknown mode, or "caffe" with another number of channels than 3.
    """

    def __init__(self, mode="caffe", **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        if mode not in MODES:
            raise ValueError(f"`mode` must be one of {', '.join(MODES)}. Received: {mode}")
        self.mode = mode

    def build(self, input_shape):
        if self.mode == "caffe" and input_shape[-1] != 3:
            raise ValueError(f'mode "caffe" needs RGB images. Received: {input_shape[-1]} channels')

    def call(self, images):
        images = ops.cast(images, "float32")
        if self.mode == "caffe":
            return ops.flip(images, axis=-1) - np.array(IMAGENET_MEAN[::-1], np.float32)
        if self.mode == "tf":
            return images / 127.5 - 1.0
        return images / 255.0

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "mode": self.mode}
