"""Keras -> Network without showing the converter any weights: its cost does not grow with the network.

TensorFlow's converter turns a function of (image, *weights) into a few kilobytes. What it would have done to the
weights, had it seen them, is done here: the filters' permutations are carried out, and each bias that it left as an
addition goes into its convolution.
"""

import keras
import numpy as np

from kseg.errors import need
from kseg.export.errors import ConversionError
from kseg.export.naming import outer_scope
from kseg.export.tflite.flatbuffer import parse, schema
from kseg.export.tflite.plain import first_line
from kseg.lowering.graph import as_array
from kseg.runtime.chatter import muted

# Where each operator takes its filter and its bias.
FILTERS = {"CONV_2D": (1, 2), "DEPTHWISE_CONV_2D": (1, 2), "FULLY_CONNECTED": (1, 2), "TRANSPOSE_CONV": (1, 3)}
_NO_ACTIVATION = schema.ActivationFunctionType.NONE
_ACTIVATIONS = {
    schema.ActivationFunctionType.RELU: "RELU",
    schema.ActivationFunctionType.RELU6: "RELU6",
    schema.ActivationFunctionType.RELU_N1_TO_1: "RELU_N1_TO_1",
    schema.ActivationFunctionType.TANH: "TANH",
}


class NotLean(ConversionError):  # noqa: N818  it is no error for who asks: the plain converter comes next
    """The network computes with its weights what only the converter itself can."""


def structure(model, output="logits", taps=()):
    """Convert an inference model.

    Args:
        model: keras.Model, float32 or uint8 [1, H, W, 3] -> scores or labels.
        output: name of the output in the signature.
        taps: further Keras tensors of the model, which become the outputs "tap_0", "tap_1", ...
    Returns:
        Network in float32. Operators with weights are named like their Keras layer.
    Raises:
        NotLean: the plain converter may still be able to do it.
        ConversionError: the network cannot be expressed in TFLite's built-in operators.
    """
    variables = [*model.trainable_variables, *model.non_trainable_variables]
    network = parse(_convert(model, variables, output, taps))
    for number, variable in enumerate(variables):
        index = network.inputs.pop(f"weight_{number}", None)
        if index is not None:
            network.constants[index] = as_array(variable)
            network.tensors[index].name = variable.path
    _carry_out(network)
    _put_biases_in(network)
    _name_tensors(network)
    return network


def _convert(model, variables, output, taps):
    tf = need("tensorflow", "cpu")
    names = [output, *(f"tap_{number}" for number in range(len(taps)))]
    tapped = keras.Model(model.inputs[0], [model.outputs[0], *taps], name=model.name)
    trainable = len(model.trainable_variables)

    def predict(image, *weights):
        with outer_scope(model):
            values, _ = tapped.stateless_call(weights[:trainable], weights[trainable:], image, training=False)
        return dict(zip(names, keras.tree.flatten(values), strict=True))

    specs = [tf.TensorSpec(model.inputs[0].shape, model.inputs[0].dtype, name="image")]
    specs += [tf.TensorSpec(v.shape, v.dtype, name=f"weight_{n}") for n, v in enumerate(variables)]
    holder = tf.Module()
    try:
        with muted():
            holder.predict = tf.function(predict, input_signature=specs)
            converter = tf.lite.TFLiteConverter.from_concrete_functions(
                [holder.predict.get_concrete_function()], holder
            )
            # No SELECT_TF_OPS: a file with Flex operators needs TensorFlow on the device.
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
            return converter.convert()
    except (MemoryError, OSError):
        raise
    except Exception as error:  # the converter raises whatever its passes raise
        raise NotLean(f"{model.name}: TFLite: {first_line(error)}") from error


def _carry_out(network):
    """Compute what depends on weights alone."""
    remaining = []
    for operator in network.operators:
        given = [network.constants.get(index) for index in operator.inputs]
        if any(array is None for array in given):
            remaining.append(operator)
        elif operator.name == "TRANSPOSE":
            network.constants[operator.outputs[0]] = given[0].transpose(given[1])
        elif operator.name == "RESHAPE":
            network.constants[operator.outputs[0]] = given[0].reshape(given[1])
        else:
            raise NotLean(f"{operator.name} on weights")
        if operator.name in ("TRANSPOSE", "RESHAPE") and operator.outputs[0] in network.constants:
            network.tensors[operator.outputs[0]].name = network.tensors[operator.inputs[0]].name
    network.operators = remaining


def _put_biases_in(network):
    """convolution, ADD of a vector, activation -> convolution."""
    for operator in list(network.operators):
        if operator.name not in FILTERS or operator.options.fusedActivationFunction != _NO_ACTIVATION:
            continue
        users = network.users(operator.outputs[0])
        if len(users) != 1 or users[0].name != "ADD" or operator.outputs[0] in network.outputs.values():
            continue
        (addition,) = users
        other = next((index for index in addition.inputs if index != operator.outputs[0]), None)  # None: x + x
        bias = network.constants.get(other)
        channels = network.tensors[operator.outputs[0]].shape[-1]
        if bias is None or bias.size != channels or bias.shape[-1:] != (channels,):
            continue
        place = FILTERS[operator.name][1]
        if len(operator.inputs) > place and np.any(network.constants.get(operator.inputs[place], np.nan)):
            continue  # it has a bias already
        name = network.tensors[other].name
        network.constants[other] = bias.reshape(-1)
        network.tensors[other].shape = [bias.size]
        operator.inputs = [*operator.inputs[:place], other]
        _take_over(network, operator, addition)
        network.tensors[other].name = name


def _take_over(network, operator, addition):
    """Let a convolution give what the ADD behind it gave."""
    activation = addition.options.fusedActivationFunction
    if operator.name == "TRANSPOSE_CONV":
        operator.version = max(operator.version, 3)  # takes a bias from version 3 on, an activation only from 4 on
        if activation != _NO_ACTIVATION:
            addition.name, addition.version = _ACTIVATIONS[activation], 1
            addition.inputs, addition.options, addition.options_type = [operator.outputs[0]], None, 0
            return
    else:
        operator.options.fusedActivationFunction = activation
    operator.outputs = addition.outputs
    network.operators.remove(addition)


def _name_tensors(network):
    """Call inputs and outputs as in the signature, and what comes out of weights after the layer they belong to."""
    for operator in network.operators:
        if operator.name in FILTERS:
            layer = layer_of(network, operator)
            if layer:
                network.tensors[operator.outputs[0]].name = layer
    for name, index in (network.inputs | network.outputs).items():
        if not name.startswith("tap_"):
            network.tensors[index].name = name


def layer_of(network, operator):
    """Name of the Keras layer whose weights an operator holds, or None."""
    if operator.name not in FILTERS:
        return None
    name = network.tensors[operator.inputs[FILTERS[operator.name][0]]].name
    return name.rpartition("/")[0] or None
