"""Keras -> the structure of an ONNX graph, without showing the converter any weights.

tf2onnx copies every constant many times over: a 166 MB network cost it 40 s and 9 GB. So it converts a function of
(image, *weights) and sees the bare structure. What it would have computed from the weights is computed here.
"""

import re
from contextlib import contextmanager

import keras

from kseg.errors import need, one_line
from kseg.export.errors import ConversionError
from kseg.export.naming import outer_scope
from kseg.export.onnx import wording
from kseg.export.onnx.folding import fold, keep, put_biases_in
from kseg.export.onnx.operators import HANDLERS
from kseg.lowering.graph import as_array
from kseg.runtime.chatter import muted

OPSET = 17
_COUNT = re.compile(r"__(\d+)")


def structure(model, output="logits"):
    """Convert an inference model.

    Args:
        model: keras.Model, float32 or uint8 [1, H, W, 3] -> scores or labels; H and W may be None.
        output: name of the output.
    Returns:
        (onnx.ModelProto whose graph lacks its weights, {name of an initializer: NumPy array}). The arrays are views
        of the model's own weights wherever that is possible. Nodes with weights are named like their Keras layer.
    Raises:
        ConversionError: tf2onnx cannot express the network.
    """
    variables = [*model.trainable_variables, *model.non_trainable_variables]
    weights = {f"weight_{number}": as_array(variable) for number, variable in enumerate(variables)}
    proto, constants = _convert(model, weights)
    weights |= constants
    proto.graph.name, proto.graph.doc_string = model.name, ""
    wording.keep_used_domains(proto)
    wording.join_biases(proto.graph)
    wording.modernise_nearest(proto.graph)
    wording.keep_zeros_before_pooling(proto.graph)
    wording.resize_to_sizes(proto)
    _name_output(proto.graph, output)
    _name_sizes(proto.graph, model)
    weights, origins = fold(proto, weights)
    put_biases_in(proto.graph, weights)
    paths = {f"weight_{number}": variable.path for number, variable in enumerate(variables)}
    paths |= {name: name for name in constants}
    return proto, _tidy(proto.graph, weights, {name: paths[origin] for name, origin in origins.items()})


def _convert(model, weights):
    """(ModelProto whose graph takes as inputs `image`, every weight, and every constant that a layer holds; {name of
    such a constant: NumPy array})."""
    tf = need("tensorflow", "cpu")
    tf2onnx = need("tf2onnx", "onnx")
    trainable = len(model.trainable_variables)

    def predict(image, *values):
        with _functions_written_out(tf), outer_scope(model):
            scores, _ = model.stateless_call(values[:trainable], values[trainable:], image, training=False)
        return keras.tree.flatten(scores)[0]

    specs = [tf.TensorSpec(model.inputs[0].shape, model.inputs[0].dtype, name="image")]
    specs += [tf.TensorSpec(value.shape, value.dtype, name=name) for name, value in weights.items()]
    try:
        with muted():
            function = tf.function(predict, input_signature=specs)
            proto, _ = tf2onnx.convert.from_function(
                function, input_signature=specs, opset=OPSET, custom_op_handlers=dict(HANDLERS)
            )
    except (MemoryError, OSError):
        raise
    except Exception as error:  # tf2onnx raises whatever its passes raise
        raise ConversionError(f"{model.name}: ONNX: {one_line(error)}") from error
    graph = function.get_concrete_function().graph
    held = {inside.name: outside for outside, inside in graph.captures}
    return proto, {name: held[name].numpy() for name in (entry.name for entry in proto.graph.input) if name in held}


@contextmanager
def _functions_written_out(tf):
    """Where Keras calls a function of TensorFlow that XLA shall compile, as for grouped convolutions, its operations
    stand in the graph instead: tf2onnx does not look into such a call."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def _name_output(graph, name):
    """Give the graph's one output, and every place that mentions it, a name that says what it is."""
    (output,) = graph.output
    _rename(graph, {output.name: name})
    output.name = name


def _rename(graph, names):
    for node in graph.node:
        for entries in (node.input, node.output):
            for place, entry in enumerate(entries):
                if entry in names:
                    entries[place] = names[entry]
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)


def _name_sizes(graph, model):
    """Open sizes are called height and width: the same at both ends."""
    names = {1: "height", 2: "width"}
    for entry, shape in ((graph.input[0], model.input_shape), (graph.output[0], model.output_shape)):
        dims = entry.type.tensor_type.shape.dim
        del dims[:]
        for place, size in enumerate(shape):
            if size is None:
                dims.add(dim_param=names[place])
            else:
                dims.add(dim_value=size)


def _tidy(graph, weights, paths):
    """Call weights like the Keras variables they come from, and the nodes that use kernels like their layers.

    tf2onnx counts names through the whole process, and orders weights by chance: here both start anew, so that the
    same network gives the same file.

    Args:
        weights: {name: NumPy array}.
        paths: {name of a weight: path of its variable}.
    Returns:
        `weights` in the order of their use, under their new names.
    """
    counts = {}

    def counted(name):
        return _COUNT.sub(lambda found: f"__{counts.setdefault(found[1], len(counts) + 1)}", name)

    names = {name: counted(name) for node in graph.node for name in (*node.input, *node.output)}
    free = set(paths.values())
    for name in names:
        if paths.get(name) in free:
            names[name] = paths[name]
            free.remove(paths[name])
    _rename(graph, names)
    order = {name: place for place, name in enumerate(names.values())}
    keep(graph.initializer, sorted(graph.initializer, key=lambda tensor: order[tensor.name]))
    ordered = {names[name]: weights[name] for name in names if name in weights}
    kernels = {name for name, value in ordered.items() if value.ndim > 1}
    free = {name.rpartition("/")[0] for name in kernels} - {""}
    for node in graph.node:
        layers = [name.rpartition("/")[0] for name in node.input if name in kernels]
        node.name = layers[0] if free.intersection(layers) else counted(node.name)
        free -= {node.name}
    return ordered


def check(proto, weights, name):
    """Run onnx.checker, with inference of all shapes, over a graph whose weights are held apart.

    Raises:
        ConversionError: it finds a fault.
    """
    onnx = need("onnx", "onnx")
    try:
        onnx.checker.check_model(with_weights_as_inputs(proto, weights), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionError(f"{name}: onnx.checker refuses it: {one_line(error)}") from error


def with_weights_as_inputs(proto, weights):
    """A copy that is complete without the weights: inference of shapes asks for no more than theirs."""
    onnx = need("onnx", "onnx")
    whole = onnx.ModelProto()
    whole.CopyFrom(proto)
    for name, value in weights.items():
        element = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        whole.graph.input.append(onnx.helper.make_tensor_value_info(name, element, value.shape))
    return whole
