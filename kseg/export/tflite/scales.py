"""The numbers of an 8-bit file: which real number one unit of each tensor stands for.

real = scale (stored - zero point). Weights: one scale a channel, symmetric, -127..127. Activations: one scale a tensor,
8 bits with a zero point or 16 bits without (TFLite's specification of 8-bit quantisation,
https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec).
"""

from dataclasses import dataclass

import numpy as np

from kseg.export.tflite.flatbuffer import schema
from kseg.export.tflite.structure import FILTERS
from kseg.layers.quantisation import PER_UNIT

POOLS = ("MAX_POOL_2D", "AVERAGE_POOL_2D")
_MOVES = ("RESHAPE", "TRANSPOSE", "PAD", "MIRROR_PAD", "STRIDED_SLICE", "SLICE", "SQUEEZE", "EXPAND_DIMS", "GATHER")
_SPACES = ("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE")
# Their output has the scale of their input: they pick, move or average values.
SAME_SCALE = {*POOLS, *_MOVES, *_SPACES, "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"}
# Their output's scale is prescribed: (scale, zero point) in 8 bits, scale in 16 bits.
FIXED = {
    "SOFTMAX": ((1 / 256, -128), 1 / 32768),
    "LOGISTIC": ((1 / 256, -128), 1 / 32768),
    "TANH": ((1 / 128, 0), 1 / 32768),
}
CHANNEL_AXIS = {"CONV_2D": 0, "TRANSPOSE_CONV": 0, "FULLY_CONNECTED": 0, "DEPTHWISE_CONV_2D": 3}
# XNNPACK brings the process down where input scale x weight scale / output scale reaches 256.
_LARGEST_FACTOR = 250
# A concatenation gives all its parts one scale. A part that would use less than this share of it is requantised
# instead, so that its own operators keep the finer scale.
_LEAST_SHARE = 0.5


@dataclass(frozen=True)
class Numbers:
    """What an activation's stored numbers stand for."""

    scale: float
    zero_point: int
    dtype: str

    @classmethod
    def covering(cls, low, high, dtype):
        """The finest numbers that reach from low to high and hold zero exactly."""
        low, high = np.float32(min(low, 0.0)), np.float32(max(high, 0.0))
        if dtype == "int16":
            # Fine numbers for what was always zero: LiteRT's ADD of 16 bits ends the process where the scale of a part
            # is 2**14 times that of the sum.
            return cls(float(max(-low, high) / np.float32(32767)) or 1 / 32767, 0, dtype)
        # In single precision, like kseg.layers.quantisation: the two must find the same numbers to the last bit.
        scale = (high - low) * PER_UNIT[255] or np.float32(1)
        return cls(float(scale), int(np.clip(np.rint(np.float32(-128) - low / scale), -128, 127)), dtype)

    def parameters(self):
        """As the file holds them."""
        return schema.QuantizationParametersT(scale=[self.scale], zeroPoint=[self.zero_point])

    def store(self, values):
        """Real values -> stored numbers."""
        limits = np.iinfo(self.dtype)
        return np.clip(np.rint(values / self.scale) + self.zero_point, limits.min, limits.max).astype(self.dtype)


_PIXELS = Numbers(1.0, -128, "int8")


def is_float(network, index):
    """Whether a tensor holds float32 numbers; -1 is no tensor."""
    return index >= 0 and network.tensors[index].type == schema.TensorType.FLOAT32


def activations(network, operator):
    """The float tensors that an operator takes, without constants."""
    return [i for i in operator.inputs if is_float(network, i) and i not in network.constants]


def _less_an_offset(network):
    """{index: (least, greatest)} of the pixels less a mean, whatever the images for calibration showed."""
    (image,) = network.inputs.values()
    found = {}
    for operator in network.users(image):
        offset = network.constants.get(operator.inputs[-1])
        if operator.name == "SUB" and offset is not None:
            found[operator.outputs[0]] = (-offset.max(), np.float32(255) - offset.min())
    return found


def scales(network, integer, ranges, dtype, fixed):
    """{index: Numbers} for the activations; those that must share a scale do.

    Args:
        network: float Network.
        integer: the operators that will compute in integers.
        ranges: {index: (least, greatest)} for every activation.
        dtype: of the activations, "int8" or "int16".
        fixed: indices whose range was trained.
    """
    groups = _Groups(ranges | _less_an_offset(network), fixed)
    if dtype == "int8":
        (image,) = network.inputs.values()
        groups.prescribe(image, _PIXELS)
    for operator in integer:
        if operator.name in SAME_SCALE:
            groups.join(activations(network, operator)[0], operator.outputs[0])
        elif operator.name in FIXED:
            eight, sixteen = FIXED[operator.name]
            numbers = Numbers(*eight, dtype) if dtype == "int8" else Numbers(sixteen, 0, dtype)
            groups.prescribe(operator.outputs[0], numbers)
    for operator in integer:
        if operator.name == "CONCATENATION":
            groups.join_parts(activations(network, operator), operator.outputs[0])
    for operator in integer:
        if operator.name in FILTERS and dtype == "int8":
            given = groups.numbers(activations(network, operator)[0], dtype)
            largest = float(filter_scales(network, operator, given).max())
            groups.widen(operator.outputs[0], 255 * given.scale * largest / _LARGEST_FACTOR)
    return {index: groups.numbers(index, dtype) for index in ranges}


class _Groups:
    """Which tensors share their scale (a disjoint-set forest), and what each group must reach."""

    def __init__(self, ranges, fixed):
        self._ranges, self._fixed = dict(ranges), fixed
        self._parent = {index: index for index in ranges}
        self._prescribed = {}

    def _root(self, index):
        while self._parent[index] != index:
            index = self._parent[index]
        return index

    def join(self, first, second):
        first, second = self._root(first), self._root(second)
        if first != second:
            self._parent[second] = first
            if second in self._prescribed:
                self._prescribed.setdefault(first, self._prescribed.pop(second))

    def prescribe(self, index, numbers):
        self._prescribed[self._root(index)] = numbers

    def join_parts(self, parts, whole):
        """A concatenation: the parts that would use most of the whole's scale share it."""
        low, high = self.range_of(whole)
        for part in parts:
            least, greatest = self.range_of(part)
            free = not (self._is_fixed(part) or self._is_fixed(whole))
            if free and greatest - least >= _LEAST_SHARE * (high - low):
                self.join(whole, part)

    def _is_fixed(self, index):
        root = self._root(index)
        return root in self._prescribed or any(self._root(one) == root for one in self._fixed)

    def range_of(self, index):
        root = self._root(index)
        members = [one for one in self._ranges if self._root(one) == root]
        members = [one for one in members if one in self._fixed] or members
        lows, highs = zip(*(self._ranges[one] for one in members), strict=True)
        return min(*lows, 0.0), max(*highs, 0.0)

    def widen(self, index, span):
        """Let a tensor reach over at least this span."""
        low, high = self.range_of(index)
        if high - low < span:
            self._ranges[index] = (low, low + span)

    def numbers(self, index, dtype):
        prescribed = self._prescribed.get(self._root(index))
        return prescribed or Numbers.covering(*self.range_of(index), dtype)


def bias_of(network, operator):
    """The bias of a filter as an array, or None."""
    place = FILTERS[operator.name][1]
    there = len(operator.inputs) > place and operator.inputs[place] >= 0
    return network.constants[operator.inputs[place]] if there else None


def filter_scales(network, operator, given):
    """float32 [channels]: of a filter that takes the Numbers `given`."""
    scales = weight_scales(network.constants[operator.inputs[FILTERS[operator.name][0]]], CHANNEL_AXIS[operator.name])
    bias = bias_of(network, operator)
    if bias is None:
        return scales
    limit = 2.0**30 if given.dtype == "int8" else 2.0**46  # a bias beyond it would not fit
    return np.maximum(scales, (np.abs(bias) / (given.scale * limit)).astype(np.float32))


def weight_scales(array, axis):
    """float32 [channels]: the scale of each channel of a filter, so that its largest weight is stored as 127."""
    others = tuple(one for one in range(array.ndim) if one != axis)
    largest = np.maximum(array.max(others), -array.min(others)).astype(np.float32)  # no copy, unlike abs()
    scales = largest * PER_UNIT[127]
    # Weights that are all 0 need some scale, one like the others'.
    return np.where(scales > 0, scales, scales.max() or np.float32(1)).astype(np.float32)
