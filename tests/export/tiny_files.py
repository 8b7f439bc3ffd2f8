"""Tiny .tflite files as TensorFlow's converter makes them."""

import numpy as np
import tensorflow as tf

from kseg.runtime.chatter import muted

_RNG = np.random.default_rng(1)
_KERNEL, _BIAS = (_RNG.normal(size=size).astype(np.float32) for size in ((3, 3, 3, 8), (8,)))
_UPWARD = _RNG.normal(size=(4, 4, 2, 8)).astype(np.float32)
_INTEGERS = {
    "int8": tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
    "int16x8": tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
}


def convert(function, precision="float32", shape=(1, 16, 16, 3), dtype=tf.float32, flex=False):
    """Function of an image -> bytes of a .tflite file with float input and output."""
    holder = tf.Module()
    holder.predict = tf.function(function, input_signature=[tf.TensorSpec(shape, dtype, name="image")], autograph=False)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([holder.predict.get_concrete_function()], holder)
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision in _INTEGERS:
        image = np.random.default_rng(2).uniform(0, 255, shape).astype(np.float32)
        converter.representative_dataset = lambda: [[image]]
        converter.target_spec.supported_ops = [_INTEGERS[precision]]
    elif flex:
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    with muted():
        return converter.convert()


def conv(image):
    return tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(image, _KERNEL, 1, "SAME"), _BIAS))


def upward(image):
    """A convolution and a transposed one; the batch may be open."""
    features = conv(image)
    batch = image.shape[0] or tf.shape(features)[0]
    return tf.nn.conv2d_transpose(features, _UPWARD, [batch, 32, 32, 2], 2, "SAME")


def inverse(image):
    """What TFLite has no operator for."""
    return tf.linalg.inv(tf.reshape(image, [3, 16, 16]))
