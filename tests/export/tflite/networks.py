"""Networks and pictures for the tests of the TFLite writer, and a way to run a file."""

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from kseg.lowering import lower

SIZE = (64, 80)


def filled(build, classes=3, seed=3):
    """A network whose every weight counts, and whose activations neither vanish nor explode."""
    keras.utils.set_random_seed(seed)
    network = build(classes)
    rng = np.random.default_rng(seed)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            channels = layer.weights[0].shape
            given = {"gamma": (0.8, 1.2), "beta": (0.0, 0.2), "moving_mean": (-0.1, 0.1), "moving_variance": (0.6, 1.2)}
            layer.set_weights([rng.uniform(*given[weight.name], channels) for weight in layer.weights])
        elif layer.name.startswith("score"):
            layer.set_weights([rng.normal(0, 0.1, weight.shape) for weight in layer.get_weights()])
    return network


def pictures(count, seed=7, size_px=SIZE):
    """Smooth pictures, uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    coarse = (Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8)) for _ in range(count))
    return [np.asarray(image.resize(size_px[::-1], Image.BILINEAR)) for image in coarse]


def run(path, image):
    """Run a file on an image [H, W, 3] in 0..255; returns its output as real numbers, [H, W, classes] or [H, W]."""
    interpreter = Interpreter(str(path))
    (source,) = interpreter.get_input_details()
    if tuple(source["shape"][1:3]) != image.shape[:2]:
        interpreter.resize_tensor_input(source["index"], [1, *image.shape])
    interpreter.allocate_tensors()
    interpreter.set_tensor(source["index"], image[None].astype(source["dtype"]))
    interpreter.invoke()
    (target,) = interpreter.get_output_details()
    found = interpreter.get_tensor(target["index"])[0]
    scale, zero_point = target["quantization"]
    return (found.astype(np.float32) - zero_point) * scale if scale else found


def lowered(network, **options):
    return lower(network, SIZE, **options)
