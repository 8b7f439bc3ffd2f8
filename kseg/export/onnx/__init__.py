"""Keras -> ONNX: `image` [1, H, W, 3] -> `logits` [1, H, W, classes], channels last as in Keras."""

import tempfile
from pathlib import Path

from kseg.errors import need
from kseg.export.onnx.int8 import quantise
from kseg.export.onnx.structure import OPSET, check, structure
from kseg.export.onnx.weights import EXTERNAL_ABOVE_BYTES, halve, write

PRECISIONS = ("float32", "float16", "int8")

__all__ = ["OPSET", "PRECISIONS", "write_onnx"]


def write_onnx(
    model,
    path,
    precision="float32",
    metadata=None,
    *,
    output="logits",
    calibration=None,
    float_nodes=(),
    external_above_bytes=EXTERNAL_ABOVE_BYTES,
):
    """Convert an inference model (see `kseg.lowering.lower`) and write it.

    Args:
        model: keras.Model, float32 or uint8 [1, H, W, 3] -> scores [1, H, W, classes] or labels [1, H, W]. Where its
            height and width are None, the file takes images of any size.
        path: pathlib.Path of the .onnx file to write; its folder serves for temporary files, too.
        precision: "float32"; "float16": weights stored in half precision, computed in float32; "int8": weights and
            activations in 8 bits (see `kseg.export.onnx.int8`), input and output as in the float file.
        metadata: {str: str} for the file's metadata_props; "opset" is added.
        output: name of the output.
        calibration: for "int8": iterable of images uint8 or float [h, w, 3] in 0..255, like those the network will
            see; the least and greatest activations on them set the scales.
        float_nodes: for "int8": names of layers, or of nodes of the float file, that stay in float.
        external_above_bytes: with more bytes of weights they go to a second file, `path` + ".data".
    Returns:
        The paths written: [path] or [path, its data file].
    Raises:
        ConversionError: the network cannot be expressed in ONNX, or onnx.checker refuses the result.
        InputError: int8 without calibration images, or `float_nodes` names what the file has not.
        CheckError: an activation is not finite on a calibration image.
        OSError: the file cannot be written.
    """
    onnx = need("onnx", "onnx")
    proto, weights = structure(model, output)
    onnx.helper.set_model_props(proto, {**(metadata or {}), "opset": str(OPSET)})
    if precision == "int8":
        check(proto, weights, path.name)  # ONNX Runtime, which measures the activations, would not say it in a line
        with tempfile.TemporaryDirectory(prefix=".quantising-", dir=path.parent) as folder:
            proto, weights = quantise(proto, weights, Path(folder), calibration, float_nodes)
    elif precision == "float16":
        weights = halve(proto.graph, weights)
    check(proto, weights, path.name)
    return write(proto, weights, path, external_above_bytes)
