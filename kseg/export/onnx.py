"""Keras -> ONNX without showing the converter any weights.

tf2onnx copies every constant many times over: a 166 MB network cost it 40 s and 9 GB. So it converts a function of
(image, *weights), sees the bare structure, and the weights are attached afterwards.
"""

from functools import partial

import numpy as np

from kseg.errors import need
from kseg.export.errors import ConversionError
from kseg.export.onnx_weights import attach, fold, halve
from kseg.runtime.chatter import muted

PRECISIONS = ("float32", "float16")
OPSET = 17
# A protobuf cannot exceed 2 GB; what is left below the limit is for the structure.
EXTERNAL_ABOVE_BYTES = 2_000_000_000


def write_onnx(
    model,
    path,
    precision="float32",
    metadata=None,
    *,
    output="logits",
    calibration=None,
    external_above_bytes=EXTERNAL_ABOVE_BYTES,
):
    """Convert an inference model (see `inference_model`) and write it.

    Args:
        model: keras.Model, float32 [1, H, W, 3] -> [1, H, W, classes].
        path: pathlib.Path of the .onnx file to write.
        precision: "float32"; "float16": weights stored in half precision, computed in float32.
        metadata: {str: str} for the file's metadata_props.
        external_above_bytes: with more bytes of weights they go to a second file, `path` + ".data".
    Returns:
        The paths written: [path] or [path, its data file].
    Raises:
        ConversionError: tf2onnx cannot express the network, or its result fails onnx.checker.
        OSError: the file cannot be written.
    """
    onnx = need("onnx", "onnx")
    variables = [*model.trainable_variables, *model.non_trainable_variables]
    weights = {f"weight_{number}": np.asarray(variable.value) for number, variable in enumerate(variables)}
    try:
        with muted():
            proto = _structure(model, weights)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # tf2onnx raises whatever its passes raise
        raise ConversionError(f"{model.name}: ONNX: {str(error).strip() or type(error).__name__}") from error
    _rename_output(proto.graph, output)
    proto.graph.name = model.name
    onnx.helper.set_model_props(proto, metadata or {})
    weights = fold(proto, weights)
    if precision == "float16":
        weights = halve(proto.graph, weights)
    written = attach(proto, weights, path, external_above_bytes)
    _check(onnx, path)
    return written


def _structure(model, weights):
    """ModelProto whose graph takes `image` and every weight as inputs."""
    tf = need("tensorflow", "cpu")
    tf2onnx = need("tf2onnx", "onnx")
    trainable = len(model.trainable_variables)

    def predict(image, *values):
        logits, _ = model.stateless_call(values[:trainable], values[trainable:], image, training=False)
        return logits

    specs = [tf.TensorSpec(model.inputs[0].shape, model.inputs[0].dtype, name="image")]
    specs += [tf.TensorSpec(value.shape, value.dtype, name=name) for name, value in weights.items()]
    function = tf.function(predict, input_signature=specs)
    proto, _ = tf2onnx.convert.from_function(function, input_signature=specs, opset=OPSET)
    return proto


def _rename_output(graph, name):
    """Give the graph's one output, and every place that mentions it, a name that says what it is."""
    (output,) = graph.output
    old, output.name = output.name, name
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [name if entry == old else entry for entry in names]


def _check(onnx, path):
    check = partial(onnx.checker.check_model, full_check=True)
    try:
        check(str(path))  # by path, because a model with external data is only whole on disk
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionError(f"{path.name}: onnx.checker refuses it: {str(error).strip()}") from error
