"""A float Network in 8 bits: which operators compute in integers, and how they are written."""

import numpy as np

from kseg.errors import InputError
from kseg.export.bias import shift
from kseg.export.tflite.flatbuffer import Operator, schema
from kseg.export.tflite.scales import (
    CHANNEL_AXIS,
    FIXED,
    POOLS,
    SAME_SCALE,
    Numbers,
    activations,
    bias_of,
    filter_scales,
    is_float,
    scales,
)
from kseg.export.tflite.structure import FILTERS, layer_of

_FREE = {*FILTERS, "ADD", "SUB", "MUL", "MEAN", "RELU", "RELU6", "LEAKY_RELU", "HARD_SWISH"}
INTEGER = {*SAME_SCALE, *FIXED, *_FREE, "CONCATENATION", "ARG_MAX"}
# The first version of each operator that takes integers of 8 and of 16 bits
# (tensorflow/lite/tools/versioning/op_version.cc); what is not here takes 8 bits from version 2 on, and no 16 bits.
_VERSIONS = {
    "CONV_2D": (3, 4),
    "DEPTHWISE_CONV_2D": (3, 5),
    "FULLY_CONNECTED": (4, 7),
    "TRANSPOSE_CONV": (2, 2),
    **dict.fromkeys((*POOLS, "ADD", "CONCATENATION", "PAD", "MIRROR_PAD", "SOFTMAX", "LOGISTIC", "TANH"), (2, 3)),
    **dict.fromkeys(("MEAN", "RELU", "RELU6"), (2, 3)),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "MUL", "SLICE"), (2, 4)),
    "SUB": (2, 5),
    "STRIDED_SLICE": (2, 2),
    "TRANSPOSE": (2, 5),
    "RESHAPE": (1, 1),
    "LEAKY_RELU": (1, 2),
    "HARD_SWISH": (1, None),
}


def quantise(network, measured, *, bits=8, input_dtype="uint8", float_layers=()):
    """Let a float Network compute in integers, wherever TFLite can; changed in place.

    Args:
        network: Network with a float32 image as input.
        measured: Measured, of every activation.
        bits: of the activations, 8 or 16; weights always have 8.
        input_dtype: of the image: "uint8": pixels as they are stored; "float32".
        float_layers: names of the operators' outputs (Keras layers, where they have weights) that stay in float.
    Raises:
        InputError: `float_layers` names what is not there or has no integers to begin with.
    """
    if unknown := sorted(set(float_layers) - set(layer_names(network))):
        known = ", ".join(layers_with_filters(network))
        raise InputError(f"no layer {', '.join(unknown)} that could stay in float; there are: {known}")
    dtype = {8: "int8", 16: "int16"}[bits]
    integer = [op for op in network.operators if _can(network, op, bits) and _name(network, op) not in float_layers]
    # Probabilities that the file gives: in steps of 1/256 those of many classes would be equal, or 0.
    integer = [op for op in integer if op.name not in FIXED or op.outputs[0] not in network.outputs.values()]
    numbers = scales(network, integer, measured.ranges, dtype, measured.trained)
    _Rewriting(network, integer, numbers, dtype, measured.means).run(input_dtype)


def layer_names(network):
    """The names by which `float_layers` knows the operators that could compute in integers, in order."""
    return [_name(network, op) for op in network.operators if _can(network, op, 8)]


def layers_with_filters(network):
    """Those of `layer_names` that hold weights: the Keras layers."""
    filters = [op for op in network.operators if _can(network, op, 8) and op.name in FILTERS]
    return list(dict.fromkeys(_name(network, op) for op in filters))


def _name(network, operator):
    return layer_of(network, operator) or network.tensors[operator.outputs[0]].name


def _can(network, operator, bits):
    if operator.name not in INTEGER or not activations(network, operator):
        return False
    if bits == 16 and (operator.name not in _VERSIONS or _VERSIONS[operator.name][1] is None):
        return False
    # A filter that is computed is for float.
    return operator.name not in FILTERS or operator.inputs[FILTERS[operator.name][0]] in network.constants


class _Rewriting:
    """Builds the new list of operators; an activation gets its other form, float or integer, when one asks for it."""

    def __init__(self, network, integer, numbers, dtype, means):
        self._network, self._numbers, self._dtype, self._means = network, numbers, dtype, means
        self._integer = set(map(id, integer))
        # Asked before anything changes: the outputs' types do, on the way.
        self._given = {id(op): activations(network, op) for op in network.operators}
        self._made = {id(op): [i for i in op.outputs if is_float(network, i)] for op in network.operators}
        self._forms = {}  # (index in the float network, Numbers or None for float) -> index of the tensor
        self._operators = []

    def run(self, input_dtype):
        network = self._network
        self._take_image(input_dtype)
        for operator in network.operators:
            if id(operator) in self._integer:
                self._to_integer(operator)
            else:
                self._keep_float(operator)
        for name, index in network.outputs.items():
            if (index, None) not in self._forms and index in self._numbers:
                network.outputs[name] = self._forms[index, self._numbers[index]]
                if self._dtype == "int16":
                    network.outputs[name] = self._form(index, None)
        network.operators = self._operators

    def _take_image(self, input_dtype):
        network = self._network
        ((name, image),) = network.inputs.items()
        original = image
        if input_dtype == "uint8":
            pixels = Numbers(1.0, 0, "uint8")
            given = network.add_tensor("image", network.tensors[image].shape, "uint8", quantization=pixels.parameters())
            network.tensors[given].shapeSignature = network.tensors[image].shapeSignature
            network.tensors[image].name = "pixels"
            network.inputs[name] = given
            # By way of float, because XNNPACK does not take uint8 -> int8, and would leave the graph in two pieces.
            image = self._convert(given, None, "pixels_float")
        self._forms[original, None] = image

    def _form(self, index, numbers):
        """The tensor that holds an activation of the float network in these numbers."""
        if (index, numbers) not in self._forms:
            held = next((form for form in self._forms if form[0] == index and form[1] is not None), (index, None))
            if held[1] and numbers:
                # By way of float: XNNPACK requantises with a factor of 8 bits, and none below 1/256.
                self._form(index, None)
                held = (index, None)
            name = f"{self._network.tensors[index].name}_{numbers.dtype if numbers else 'float'}"
            self._forms[index, numbers] = self._convert(self._forms[held], numbers, name)
        return self._forms[index, numbers]

    def _convert(self, source, numbers, name):
        network = self._network
        like = network.tensors[source]
        parameters = numbers.parameters() if numbers else None
        made = network.add_tensor(name, like.shape, numbers.dtype if numbers else "float32", quantization=parameters)
        network.tensors[made].shapeSignature = like.shapeSignature
        kind = "QUANTIZE" if numbers else "DEQUANTIZE"
        wide = "int16" in (network.dtype(source).name, numbers.dtype if numbers else "")
        signed = network.dtype(source).name == "int8"
        version = (2 if wide else 1) if numbers else 3 if wide else 2 if signed else 1
        self._operators.append(Operator(kind, version, [source], [made]))
        return made

    def _keep_float(self, operator):
        given = self._given[id(operator)]
        operator.inputs = [self._form(index, None) if index in given else index for index in operator.inputs]
        self._forms.update({(index, None): index for index in self._made[id(operator)]})
        self._operators.append(operator)

    def _to_integer(self, operator):
        network, numbers = self._network, self._numbers
        taken, outputs = self._given[id(operator)], self._made[id(operator)]
        joined = operator.name in SAME_SCALE or operator.name == "CONCATENATION"  # every part in the scale of the whole
        whole = numbers[outputs[0]] if joined else None
        wanted = {index: whole or numbers[index] for index in taken}
        given = {index: self._form(index, numbers_) for index, numbers_ in wanted.items()}
        if operator.name in FILTERS:
            self._quantise_filter(operator, wanted[taken[0]])
        else:
            self._quantise_operands(operator, whole)
        operator.inputs = [given.get(index, index) for index in operator.inputs]
        operator.version = max(operator.version, _VERSIONS.get(operator.name, (2, 2))[self._dtype == "int16"])
        if hasattr(operator.options, "potScaleInt16"):
            operator.options.potScaleInt16 = False
        self._loosen(operator, outputs)
        for index in outputs:
            tensor = network.tensors[index]
            tensor.type, tensor.quantization = schema_type(self._dtype), numbers[index].parameters()
            self._forms[index, numbers[index]] = index
        self._operators.append(operator)

    def _loosen(self, operator, outputs):
        """ReLU6 -> ReLU where 6 is the largest number that can be stored, or beyond it.

        The interpreter would store 6 in 32 bits, which a network of very small activations does not fit into.
        """
        activation = getattr(operator.options, "fusedActivationFunction", None)
        if activation == schema.ActivationFunctionType.RELU6:
            held = self._numbers[outputs[0]]
            if held.store(6.0) == np.iinfo(held.dtype).max:
                operator.options.fusedActivationFunction = schema.ActivationFunctionType.RELU

    def _quantise_operands(self, operator, whole):
        """Constants that are added or multiplied, or joined to others in the numbers of the `whole`, else None."""
        network = self._network
        for place, index in enumerate(operator.inputs):
            if is_float(network, index) and index in network.constants:
                array = network.constants[index]
                held = whole or Numbers.covering(array.min(), array.max(), self._dtype)
                operator.inputs[place] = network.add_tensor(
                    network.tensors[index].name, array.shape, self._dtype, held.store(array), held.parameters()
                )

    def _quantise_filter(self, operator, given):
        network = self._network
        filter_place, bias_place = FILTERS[operator.name]
        index = operator.inputs[filter_place]
        name, array, axis = network.tensors[index].name, network.constants[index], CHANNEL_AXIS[operator.name]
        bias = bias_of(network, operator)
        scales = filter_scales(network, operator, given)
        stored = store_weights(array, scales, axis)
        operator.inputs[filter_place] = network.add_tensor(name, array.shape, "int8", stored, per_channel(scales, axis))
        if bias is not None:
            bias = bias - self._shift(operator, array, stored, scales, axis)
            scales = (np.float32(given.scale) * scales).astype(np.float32)
            dtype = "int32" if self._dtype == "int8" else "int64"
            # In 8 bits like kseg.layers.quantisation, to the last bit.
            stored = np.rint(bias / scales if dtype == "int32" else bias.astype(np.float64) / scales).astype(dtype)
            name = network.tensors[operator.inputs[bias_place]].name
            operator.inputs[bias_place] = network.add_tensor(name, stored.shape, dtype, stored, per_channel(scales, 0))

    def _shift(self, operator, array, stored, scales, axis):
        """What the rounding of a filter's weights adds to its results on the average; 0 where that is not known."""
        (taken,) = self._given[id(operator)]
        if taken not in self._means:
            return np.float32(0)
        window = tuple(range(1, array.ndim - 1))
        sums, rounded = array.sum(window), stored.sum(window, dtype=np.int64)
        if axis == array.ndim - 1:  # depthwise, [1, channels]: each of them takes one
            sums, rounded = sums.T, rounded.T
        strides = 1
        if operator.name == "TRANSPOSE_CONV":  # of the window, each result takes a part
            strides = operator.options.strideH * operator.options.strideW
        return (shift(rounded * scales[:, None] - sums, self._means[taken]) / strides).astype(np.float32)


def schema_type(dtype):
    """The schema's number of a dtype."""
    return getattr(schema.TensorType, dtype.upper())


def store_weights(array, scales, axis):
    """int8 of the shape of `array`, made a part at a time: half a gigabyte does not fit twice."""
    stored = np.empty(array.shape, np.int8)
    step = max(1, 2**22 // max(1, array.size // array.shape[axis]))
    for start in range(0, array.shape[axis], step):
        part = (slice(None),) * axis + (slice(start, start + step),)
        shape = [-1 if one == axis else 1 for one in range(array.ndim)]
        stored[part] = np.clip(np.rint(array[part] / scales[start : start + step].reshape(shape)), -127, 127)
    return stored


def per_channel(scales, axis):
    """A filter's or a bias's parameters as the file holds them."""
    zeros = np.zeros(len(scales), np.int64)
    return schema.QuantizationParametersT(scale=scales, zeroPoint=zeros, quantizedDimension=axis)
