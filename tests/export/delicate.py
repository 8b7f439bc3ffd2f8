"""A network without a fault in float, of which one layer does not bear 8 bits; pictures and labels for it."""

import keras
import numpy as np
from PIL import Image

from kseg.labels import LabelSet

SIZE = (32, 48)
LABELS = LabelSet(("dark", "bright"), ((0, 0, 0), (255, 255, 255)), ignore=255)


def delicate_network(largest=1000.0, gain=1.0):
    """Says "bright" where red is above one half.

    A weight of the layer "delicate" is `largest`, on a channel that is always 0. In 8 bits, its filter's scale follows
    that weight, and the others, of `gain`, become 0. A ReLU6, which knows what 6 is, keeps the channels from being
    brought to like sizes, which would cure it. The layers around it bear 8 bits well.
    """
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 1, activation="relu6", name="copy")(image)
    x = keras.layers.Conv2D(2, 1, activation="relu", name="delicate")(x)
    x = keras.layers.Conv2D(2, 1, name="score")(x)
    network = keras.Model(image, x, name="red")
    copy = np.zeros((1, 1, 3, 4))
    copy[0, 0, :, :3] = np.eye(3) / 255
    copy[0, 0, 0, 3] = 1 / 255
    delicate = np.zeros((1, 1, 4, 2))
    delicate[0, 0, 0, 0] = delicate[0, 0, 1, 1] = gain
    delicate[0, 0, 3, :] = largest
    score = np.array([[[[0.0, 1 / gain], [0.0, 0.0]]]])
    network.get_layer("copy").set_weights([copy, np.array([0.0, 0.0, 0.0, -2.0])])
    network.get_layer("delicate").set_weights([delicate, np.zeros(2)])
    network.get_layer("score").set_weights([score, np.array([128 / 255, 0.0])])
    return network


def pairs(count=3, seed=7):
    """Smooth pictures at SIZE with their labels, a few rows of which are unlabelled."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
        image = np.asarray(coarse.resize(SIZE[::-1], Image.BILINEAR))
        label = (image[..., 0] > 128).astype(np.int32)
        label[:3] = 255
        found.append((image, label))
    return found
