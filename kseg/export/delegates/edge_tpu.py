"""Coral's Edge TPU, runtime 14: full 8-bit integer files of fixed size. What it refuses runs on the host's CPU.

Its compiler maps operators up to the first one refused and leaves all that come later to the CPU, and for precision it
may leave a large resize there too; the size from which on is not documented.
"""

from kseg.export.delegates import checks
from kseg.export.delegates.checks import Rule, names

REQUIREMENTS = "https://coral.ai/docs/edgetpu/models-intro/#model-requirements"
SUPPORTED = "https://coral.ai/docs/edgetpu/models-intro/#supported-operations"

_OPERATORS = names("""
    ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D EXPAND_DIMS FULLY_CONNECTED L2_NORMALIZATION LOGISTIC
    LSTM MAXIMUM MAX_POOL_2D MEAN MINIMUM MUL PACK PAD PRELU QUANTIZE REDUCE_MAX REDUCE_MIN RELU RELU6 RELU_N1_TO_1
    RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SLICE SOFTMAX SPACE_TO_DEPTH SPLIT SQUARED_DIFFERENCE SQUEEZE
    STRIDED_SLICE SUB SUM TANH TRANSPOSE TRANSPOSE_CONV
""")
_LONGEST_SOFTMAX = 16_000


def _sizes(operator):
    shapes = [tensor.shape for tensor in checks.activations(operator)]
    if any(None in shape for shape in shapes):
        return "a size left open"
    large = any(edge != 1 for shape in shapes for edge in shape[:-3])
    return "a batch above 1, or more than three dimensions" if large else None


def _softmax(operator):
    shape = operator.inputs[0].shape
    one_row = all(edge == 1 for edge in shape[:-1]) and all(edge <= _LONGEST_SOFTMAX for edge in shape[-1:])
    return None if one_row else f"softmax of more than one row of {_LONGEST_SOFTMAX} values"


def _dilates(operator):
    same = operator.option("DilationHFactor", 1) == operator.option("DilationWFactor", 1)
    return None if same else "height and width dilated differently"


def _joins(operator):
    return "joins a constant, which must be zero" if checks.weights(operator) else None


def _reduces(operator):
    shape, axes = operator.inputs[0].shape, operator.input(1).values if operator.input(1) else None
    places = {axis % len(shape) for axis in axes or () if shape}
    if len(shape) == 4 and 0 in places:
        return "works along the batch"
    channels = operator.name == "MEAN" and len(shape) - 1 in places and shape[-1] % 4
    return "a mean over channels whose number is no multiple of 4" if channels else None


RULES = (
    Rule(None, checks.among(_OPERATORS), SUPPORTED),
    Rule(None, checks.types("int8", "uint8"), REQUIREMENTS),
    Rule(None, checks.settled_parameters, REQUIREMENTS),
    Rule(None, checks.settled_weights, REQUIREMENTS),
    Rule(None, _sizes, REQUIREMENTS),  # and so nothing that pads the batch, either
    Rule(names("AVERAGE_POOL_2D CONCATENATION MAX_POOL_2D"), checks.fused("NONE"), SUPPORTED),
    Rule(("CONCATENATION",), _joins, SUPPORTED),
    Rule(names("CONV_2D DEPTHWISE_CONV_2D"), _dilates, SUPPORTED),
    Rule(names("MEAN REDUCE_MAX REDUCE_MIN SUM"), _reduces, SUPPORTED),
    Rule(("SOFTMAX",), _softmax, SUPPORTED),
    Rule(("STRIDED_SLICE",), checks.keeps_axes, SUPPORTED),
    Rule(("STRIDED_SLICE",), checks.unit_strides, SUPPORTED),
)
