"""Channels of like size before they share 8 bits.

All channels of an activation have one scale in a .tflite file, so a channel that reaches to 0.5 beside one that reaches
to 50 is left with two or three numbers. What gives a channel can give it multiplied by t instead, if what takes it
divides its weights by t: a convolution, a ReLU, a pooling and an enlargement let factors above 0 through (Nagel et al.
2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.1). The factor that leaves
activations and weights equally coarse is the square root of the weights' size over the activations' (Xiao et al. 2023,
"SmoothQuant", equation 4 with alpha 0.5).
"""

import numpy as np

from kseg.export.tflite.flatbuffer import schema
from kseg.export.tflite.scales import CHANNEL_AXIS, POOLS, activations, is_float
from kseg.export.tflite.structure import FILTERS

_PASS = {
    *POOLS,
    *("RELU", "LEAKY_RELU", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "PAD", "MIRROR_PAD", "MEAN", "RESHAPE"),
    *("SQUEEZE", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND"),
}
_POSITIVE = (schema.ActivationFunctionType.NONE, schema.ActivationFunctionType.RELU)
# Filters with more weights are left alone: changed, they would be in memory twice.
_LARGEST = 2**24
# Channels, and weights, below this share of the largest count as if they had it.
_LEAST = 1e-3


def equalise(network, ranges):
    """Multiply the channels of a float Network's activations by factors that its weights undo; changed in place.

    Args:
        network: Network in float32; it computes the same afterwards, up to rounding.
        ranges: {index of an activation: (least, greatest) of each channel, arrays [channels]}.
    Returns:
        The `ranges` of the changed network.
    """
    groups = _Groups(network)
    factors = groups.factors(ranges)
    for operator in network.operators:
        if operator.name in FILTERS and operator.outputs[0] in factors:
            _scale(network, operator, factors[activations(network, operator)[0]], factors[operator.outputs[0]])
    return {
        index: tuple(limit * factors[index] for limit in limits) if index in factors else limits
        for index, limits in ranges.items()
    }


class _Group:
    """Channels that need one factor each, through all the tensors that they go through."""

    def __init__(self, size, free):
        self.size, self.free, self._same = size, free, None

    def root(self):
        return self if self._same is None else self._same.root()

    def join(self, other):
        one, other = self.root(), other.root()
        if one is not other:
            one.free &= other.free
            other._same = one


class _Groups:
    """Which channels of which tensors belong together."""

    def __init__(self, network):
        self._network = network
        self._parts = {}  # index of a tensor -> list of _Group, along its channels
        (image,) = network.inputs.values()
        self._parts[image] = [self._new(image, free=False)]
        for operator in network.operators:
            self._follow(operator)
        for index in network.outputs.values():
            self._hold(index)

    def _new(self, index, free):
        shape = self._network.tensors[index].shape
        return _Group(int(shape[-1]) if len(shape) else 1, free)

    def _follow(self, operator):
        given = activations(self._network, operator)
        fits = getattr(operator.options, "fusedActivationFunction", _POSITIVE[0]) in _POSITIVE
        parts = None
        if operator.name in FILTERS and _takes_factors(self._network, operator):
            parts = [self._new(operator.outputs[0], free=fits)]
        elif fits and given:
            parts = self._through(operator, given)
        if parts is not None:
            self._parts[operator.outputs[0]] = parts
            return
        for index in given:
            self._hold(index)
        self._parts |= {index: [self._new(index, free=False)] for index in operator.outputs}

    def _through(self, operator, given):
        """The parts of what an operator gives that keeps the channels of what it takes, or None."""
        shapes = [[*self._network.tensors[index].shape] for index in (*given, operator.outputs[0])]
        alone = len(given) == len([index for index in operator.inputs if is_float(self._network, index)])
        if not alone or any(not shape for shape in shapes):
            return None
        if operator.name == "CONCATENATION":
            along_channels = operator.options.axis in (-1, len(shapes[-1]) - 1)
            return [part for index in given for part in self._parts[index]] if along_channels else None
        if operator.name in _PASS:
            return self._parts[given[0]] if shapes[0][-1] == shapes[-1][-1] else None
        if operator.name in ("ADD", "SUB") and len(given) == 2 and shapes[0] == shapes[1]:
            one, other = (self._parts[index] for index in given)
            if [part.size for part in one] == [part.size for part in other]:
                for first, second in zip(one, other, strict=True):
                    first.join(second)
                return one
        return None

    def _hold(self, index):
        for part in self._parts.get(index, ()):
            part.root().free = False

    def factors(self, ranges):
        """{index of an activation: float32 [channels]}, 1 where nothing may be changed."""
        reach, weights, found = {}, {}, {}
        for index, parts in self._parts.items():
            if index in ranges:
                self._collect(reach, parts, np.maximum(*map(np.abs, ranges[index])))
        for operator in self._network.operators:
            if operator.name in FILTERS and _takes_factors(self._network, operator):
                parts = self._parts[activations(self._network, operator)[0]]
                if operator.name != "DEPTHWISE_CONV_2D":  # each of its channels has a scale of its own
                    self._collect(weights, parts, _weights_of_inputs(self._network, operator))
        for index, parts in self._parts.items():
            found[index] = np.concatenate([_factors(part.root(), reach, weights) for part in parts])
        return found

    @staticmethod
    def _collect(largest, parts, values):
        ends = np.cumsum([part.size for part in parts])
        for part, part_values in zip(parts, np.split(values, ends[:-1]), strict=True):
            root = part.root()
            largest[root] = np.maximum(largest.get(root, 0), part_values)


def _factors(group, reach, weights):
    ones = np.ones(group.size, np.float32)
    if not group.free or group not in reach or not np.max(reach[group]) > 0:
        return ones
    size = np.maximum(reach[group], _LEAST * np.max(reach[group]))
    if group not in weights:  # channels that are filtered each alone
        return (1 / size).astype(np.float32)
    return np.sqrt(np.maximum(weights[group], _LEAST) / size).astype(np.float32)


def _takes_factors(network, operator):
    """Whether the channels that a filter takes, and those that it gives, can be scaled in it."""
    given = activations(network, operator)
    index = operator.inputs[FILTERS[operator.name][0]]
    if index not in network.constants or len(given) != 1:
        return False
    shape, channels = network.constants[index].shape, int(network.tensors[given[0]].shape[-1])
    return shape[-1] == channels and network.constants[index].size <= _LARGEST and len(network.users(index)) == 1


def _weights_of_inputs(network, operator):
    """float [channels taken]: the largest weight of each, as a share of the largest that the same output has."""
    weights = np.abs(network.constants[operator.inputs[FILTERS[operator.name][0]]])
    weights = weights.max(tuple(range(1, weights.ndim - 1))) if weights.ndim > 2 else weights  # [given, taken]
    largest = weights.max(1, keepdims=True)
    return (weights / np.where(largest > 0, largest, 1)).max(0)


def _scale(network, operator, taken, given):
    if (taken == 1).all() and (given == 1).all():
        return
    filter_place, bias_place = FILTERS[operator.name]
    index = operator.inputs[filter_place]
    weights = network.constants[index]
    if CHANNEL_AXIS[operator.name] == weights.ndim - 1:  # depthwise
        network.constants[index] = weights * (given / taken)
    else:
        network.constants[index] = weights / taken * given.reshape(-1, *[1] * (weights.ndim - 1))
    if len(operator.inputs) > bias_place and (bias := operator.inputs[bias_place]) >= 0:
        # A tensor of its own: others may add the same bias.
        name, values = network.tensors[bias].name, network.constants[bias] * given
        operator.inputs[bias_place] = network.add_tensor(name, values.shape, "float32", values)
