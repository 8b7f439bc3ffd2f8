"""Keras -> TFLite: built-in operators only, a batch of 1, `image` -> `logits`."""

import kseg
from kseg.export.tflite.flatbuffer import write
from kseg.export.tflite.plain import plain
from kseg.export.tflite.quantise import layer_names, quantise
from kseg.export.tflite.ranges import measure_ranges
from kseg.export.tflite.structure import NotLean, structure
from kseg.export.tflite.weights import halve, quantise_weights

PRECISIONS = ("float32", "float16", "dynamic", "int8", "int16x8")
_BITS = {"int8": 8, "int16x8": 16}

__all__ = ["PRECISIONS", "NotLean", "layer_names", "plain", "structure", "write_tflite"]


def write_tflite(
    model, path, precision="float32", *, output="logits", calibration=None, input_dtype="uint8", float_layers=()
):
    """Convert an inference model (see `kseg.lowering.lower`) and write it.

    Args:
        model: keras.Model, float32 or uint8 [1, H, W, 3] -> scores [1, H, W, classes] or labels [1, H, W].
        path: pathlib.Path of the .tflite file to write.
        precision: "float32"; "float16": weights stored in half precision; "dynamic": weights in 8 bits, activations
            quantised while running; "int8": everything in 8 bits; "int16x8": activations in 16, weights in 8 bits.
        output: name of the output in the signature.
        calibration: Calibration, for "int8" and "int16x8": its images' least and greatest activations set the scales.
        input_dtype: of an integer file's image, "uint8" or "float32"; `model` takes float32 for those.
        float_layers: names of layers that stay in float in an "int8" file.
    Returns:
        {"converter": "structure"}, or {"converter": "plain", "because": str}, for the card.
    Raises:
        ConversionError: the network cannot be expressed in TFLite's built-in operators.
        CheckError: an activation is not finite on a calibration image.
        OSError: the file cannot be written.
    """
    told = {"converter": "structure"}
    try:
        network = structure(model, output)
    except NotLean as why:
        network, told = plain(model, output), {"converter": "plain", "because": str(why)}
    if precision == "float16":
        halve(network)
    elif precision == "dynamic":
        quantise_weights(network)
    elif precision in _BITS:
        images = calibration.at_size(model.input_shape[1:3])
        ranges = measure_ranges(network, images, path.parent)
        quantise(network, ranges, bits=_BITS[precision], input_dtype=input_dtype, float_layers=float_layers)
    network.description = f"{model.name}, {precision}, by kseg {kseg.__version__}"
    write(network, path)
    return told
