"""Run by test_convolution.py in a process of its own: python bias_gradients.py OUT.npz.

The loss is the sum of all that a convolution gives, so that the true gradient of each bias is the number of pixels.
"""

import sys

import keras
import numpy as np

from kseg import layers

keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
images = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype(np.float32)
shares = {}
for kind, strides in ((layers.Conv2D, 1), (layers.Conv2DTranspose, 2)):
    inputs = keras.Input((None, None, 3))
    layer = kind(5, 3, strides=strides, padding="same")
    model = keras.Model(inputs, layer(inputs))
    model.compile(keras.optimizers.SGD(1.0), lambda target, outputs: keras.ops.sum(outputs))
    model.fit(images, images, batch_size=len(images), verbose=0)
    shares[kind.__name__] = -np.asarray(layer.bias.value) / (len(images) * (32 * strides) ** 2)
np.savez(sys.argv[1], **shares)
