"""Smaller weights, computed with in float: half precision, or 8 bits."""

import numpy as np

from kseg.export.tflite.flatbuffer import Operator
from kseg.export.tflite.quantise import per_channel, store_weights
from kseg.export.tflite.scales import CHANNEL_AXIS, weight_scales
from kseg.export.tflite.structure import FILTERS

# The versions in which they take float activations and 8-bit filters with one scale a channel
# (tensorflow/lite/tools/versioning/op_version.cc).
_HYBRID_VERSIONS = {"CONV_2D": 5, "FULLY_CONNECTED": 12}


def halve(network):
    """Store the filters in half precision; interpreters make them float32 again when they load the file.

    Vectors (biases, scales) stay: they are small and delicate.
    """

    def stored(array, _):
        with np.errstate(over="ignore"):  # beyond 65504 it becomes infinite, and the parity check fails
            return array.astype(np.float16), None

    _replace_filters(network, stored, version=3)


def _replace_filters(network, stored, version):
    """Put a DEQUANTIZE between each filter's new constant and its operator."""
    operators = []
    for operator in network.operators:
        place = FILTERS.get(operator.name, (None,))[0]
        index = operator.inputs[place] if place is not None else None
        if index in network.constants and network.constants[index].dtype == np.float32:
            array, parameters = stored(network.constants.pop(index), operator.name)
            tensor = network.tensors[index]
            small = network.add_tensor(f"{tensor.name}_{array.dtype}", array.shape, array.dtype, array, parameters)
            operators.append(Operator("DEQUANTIZE", version, [small], [index]))
        operators.append(operator)
    network.operators = operators


def quantise_weights(network):
    """Store the filters in 8 bits; convolutions quantise their input anew for each image while running.

    XNNPACK has no such kernel for depthwise and transposed ones: there the filter becomes float again on loading.
    """

    def stored(array, kind):
        scales = weight_scales(array, CHANNEL_AXIS[kind])
        return store_weights(array, scales, CHANNEL_AXIS[kind]), per_channel(scales, CHANNEL_AXIS[kind])

    for operator in network.operators:
        place = FILTERS[operator.name][0] if operator.name in _HYBRID_VERSIONS else 0
        index = operator.inputs[place]
        if operator.name in _HYBRID_VERSIONS and index in network.constants:
            array, parameters = stored(network.constants[index], operator.name)
            name = network.tensors[index].name
            operator.inputs[place] = network.add_tensor(name, array.shape, "int8", array, parameters)
            operator.version = max(operator.version, _HYBRID_VERSIONS[operator.name])
            if hasattr(operator.options, "asymmetricQuantizeInputs"):
                operator.options.asymmetricQuantizeInputs = True
    _replace_filters(network, stored, version=5)
