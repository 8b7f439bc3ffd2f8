"""Exported files of every kind, made by the converters alone, so that these tests ask nothing of kseg.export."""

import numpy as np
import tensorflow as tf
import tf2onnx

from kseg.labels import LabelSet
from kseg.runtime import Card
from kseg.runtime.card import sha256_of
from kseg.runtime.chatter import muted

SIZE = (24, 32)
CLASSES = 4
_GENERATOR = np.random.default_rng(3)
_KERNEL = _GENERATOR.normal(0, 0.01, (3, 3, 3, CLASSES)).astype(np.float32)


def photo(size_px=SIZE, seed=0):
    """uint8 [H, W, 3]: large patches of colour, as a picture has."""
    colours = np.random.default_rng(seed).integers(0, 256, (6, 8, 3))
    return tf.image.resize(colours, size_px, method="nearest").numpy().astype(np.uint8)


def scores_of(image, kind="logits"):
    """What the network gives for an image [H, W, 3], computed by TensorFlow."""
    return _network(kind)(np.asarray(image, np.float32)[None]).numpy()[0]


def write(path, *, kind="logits", dtype="float32", precision="float32", resizable=False, **changes):
    """Write a file with its card; `changes` are fields of the card that shall say something else."""
    size_px = (None, None) if resizable else SIZE
    spec = [tf.TensorSpec((1, *size_px, 3), dtype, name="image")]
    function = tf.function(lambda image: _network(kind)(tf.cast(image, tf.float32)), input_signature=spec)
    with muted():
        if path.suffix == ".onnx":
            tf2onnx.convert.from_function(function, input_signature=spec, opset=17, output_path=str(path))
        else:
            path.write_bytes(_tflite(function.get_concrete_function(), precision, dtype))
    card = Card(
        file=path.name,
        sha256=sha256_of(path),
        network="small",
        labels=LabelSet.numbered(CLASSES),
        input={"shape": [1, *size_px, 3], "dtype": dtype, "range": [0, 255]},
        output={"kind": kind, "shape": [1, *size_px, *([] if kind == "labels" else [CLASSES])]},
        precision=precision,
        versions={},
    )
    Card(**{**vars(card), **changes}).save(path)
    return path


def _network(kind):
    def run(image):
        scores = tf.nn.conv2d(image - 128.0, _KERNEL, 1, "SAME")
        if kind == "probabilities":
            return tf.nn.softmax(scores)
        return tf.cast(tf.argmax(scores, -1), tf.uint8) if kind == "labels" else scores

    return run


def _tflite(function, precision, dtype):
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
    if precision in ("int8", "int16x8"):
        ops = tf.lite.OpsSet
        eight, sixteen = ops.TFLITE_BUILTINS_INT8, ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [eight if precision == "int8" else sixteen]
        images = [photo(seed=seed)[None].astype(dtype) for seed in range(8)]
        converter.representative_dataset = lambda: ([image] for image in images)
        if precision == "int16x8":
            converter.inference_output_type = tf.int16  # as a board without floats would have it
    return converter.convert()
