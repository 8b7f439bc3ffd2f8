"""Keras -> TFLite with TensorFlow's converter: built-in operators only, a static batch of 1, `image` -> `logits`."""

import itertools

import numpy as np

from kseg.errors import InputError, need
from kseg.export.errors import ConversionError
from kseg.runtime.chatter import muted
from kseg.runtime.resize import resize

PRECISIONS = ("float32", "float16", "dynamic", "int8")


def to_tflite(model, precision, calibration=None):
    """Convert an inference model (see `inference_model`).

    Args:
        model: keras.Model, float32 [1, H, W, 3] -> [1, H, W, classes].
        precision: "float32"; "float16": weights stored in half precision; "dynamic": weights in 8 bits, activations
            quantised while running; "int8": everything in 8 bits, uint8 pixels in, int8 scores out.
        calibration: for "int8", an iterable of images, uint8 or float [h, w, 3] in 0..255 of any size: what the
            network will see, unaugmented. Their least and greatest activations set the scales.
    Returns:
        bytes, the content of the .tflite file.
    Raises:
        InputError: "int8" without calibration images.
        ConversionError: the network cannot be expressed in TFLite's built-in operators.
    """
    tf = need("tensorflow", "cpu")
    holder = tf.Module()
    # The converter finds the weights only through a module that holds the variables themselves: given the Keras
    # model it loses them without a word, and the file then computes NaN.
    holder.held = [variable.value for variable in model.variables]
    holder.predict = tf.function(
        lambda image: {"logits": model(image, training=False)},
        input_signature=[tf.TensorSpec(model.inputs[0].shape, tf.float32, name="image")],
    )
    try:
        with muted():
            function = holder.predict.get_concrete_function()
            converter = tf.lite.TFLiteConverter.from_concrete_functions([function], holder)
            _configure(tf, converter, precision, _calibration_images(model, calibration))
            content = converter.convert()
    except (InputError, MemoryError, OSError):
        raise
    except Exception as error:  # the converter raises whatever its passes raise
        raise ConversionError(f"{model.name}: TFLite, {precision}: {_first_line(error)}") from error
    if precision == "int8":
        _check_pixel_scale(content)
    return content


def _configure(tf, converter, precision, images):
    # No SELECT_TF_OPS: a file with Flex operators needs TensorFlow on the device.
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if precision == "float32":
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: ([image] for image in images)
        converter.inference_input_type = tf.uint8
        converter.inference_output_type = tf.int8


def _calibration_images(model, calibration):
    """Yield float32 [1, H, W, 3], one image of `calibration` after the other, at the model's size."""
    images = iter(calibration or ())
    first = next(images, None)
    if first is None:
        raise InputError("int8 needs images for calibration, and there are none: give some (--calibrate DATA)")
    for number, image in enumerate(itertools.chain([first], images)):
        pixels = resize(np.asarray(image), model.inputs[0].shape[1:3])
        if number == 0:
            # Only when calibration sees 0 and 255 is a stored uint8 pixel the pixel itself (scale 1, zero point 0).
            pixels[0, 0], pixels[-1, -1] = 0.0, 255.0
        yield pixels[None]


def _check_pixel_scale(content):
    interpreter = need("ai_edge_litert.interpreter", "tflite").Interpreter(model_content=content)
    scale, zero_point = interpreter.get_input_details()[0]["quantization"]
    if not (abs(scale - 1.0) <= 1e-6 and zero_point == 0):
        raise ConversionError(f"the file's pixels have scale {scale} and zero point {zero_point} instead of 1 and 0")


def _first_line(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
