"""The GPU delegate (OpenCL, OpenGL, Metal), with its support of 8-bit files on, as it is by default. As of 2025."""

from kseg.export.delegates import checks
from kseg.export.delegates.checks import LITERT, Rule, by_name, names

BUILDER = LITERT + "delegates/gpu/common/model_builder.cc"
COMPATIBILITY = LITERT + "tools/versioning/gpu_compatibility.cc"

_OPERATORS = names("""
    ABS ADD ADD_N AVERAGE_POOL_2D BATCH_MATMUL CONCATENATION CONV_2D COS CUMSUM DENSIFY DEPTHWISE_CONV_2D DEPTH_TO_SPACE
    DEQUANTIZE DIV ELU EXP FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GELU HARD_SWISH LEAKY_RELU LOG LOGISTIC LSTM
    MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG PACK PAD PADV2 POW PRELU QUANTIZE REDUCE_MAX REDUCE_MIN
    REDUCE_PROD RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SIGN SIN SLICE
    SOFTMAX SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE STRIDED_SLICE SUB SUM TANH TILE TRANSPOSE
    TRANSPOSE_CONV UNPACK Convolution2DTransposeBias MaxPoolingWithArgmax2D MaxUnpooling2D Resampler
""")
# They also take truth values or indices.
_OTHERS = names("""
    CAST EQUAL GATHER GREATER GREATER_EQUAL LESS LESS_EQUAL LOGICAL_AND NOT_EQUAL ONE_HOT SELECT SELECT_V2
""")
_VERSIONS = by_name(
    {
        1: "CUMSUM DENSIFY ONE_HOT PRELU RESHAPE SELECT SELECT_V2",
        2: """
            ABS ADD ADD_N AVERAGE_POOL_2D CONCATENATION COS DIV ELU EXP FLOOR GELU LEAKY_RELU LOG LOGISTIC MAXIMUM
            MAX_POOL_2D MINIMUM MIRROR_PAD NEG PAD PADV2 POW QUANTIZE RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1 RSQRT SIGN SIN
            SLICE SOFTMAX SPACE_TO_DEPTH SQRT SQUARE SQUARED_DIFFERENCE SUB TANH
        """,
        3: "DEQUANTIZE MUL RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR TRANSPOSE_CONV",
        4: "STRIDED_SLICE TRANSPOSE",
        6: "CONV_2D DEPTHWISE_CONV_2D",
        9: "FULLY_CONNECTED",
    }
)


def _casts(operator):
    taken, given = operator.inputs[0].dtype, operator.outputs[0].dtype
    floats = ("float16", "float32")
    numbers = {taken, given} <= {"float32", "int32"}
    flags = (taken == "bool" and given in floats) or (given == "bool" and taken in floats)
    return None if numbers or flags else f"turns {taken} into {given}"


def _spreads(operator):
    shapes = sorted((tensor.shape for tensor in operator.inputs if tensor), key=len)
    if len(shapes) != 2 or len(shapes[0]) < 2 or len(shapes[0]) == len(shapes[1]):
        return None
    short, long = shapes
    over_plane = len(long) == 4 and long[0] == 1 and (len(short) == 3 or short == (1, 1))
    by_channel = len(long) == 4 and len(short) == 2 and short == (long[0], long[3])
    return None if over_plane or by_channel else f"spreads {len(short)} dimensions over {len(long)}"


def _pads(operator):
    paddings = operator.input(1)
    fits = paddings is not None and paddings.shape in ((3, 2), (4, 2))
    return None if fits else "pads other than 3 or 4 dimensions"


def _resizes(operator):
    both = operator.option("AlignCorners") and operator.option("HalfPixelCenters")
    return "align_corners together with half_pixel_centers" if both else None


RULES = (
    Rule(None, checks.among((*_OPERATORS, *_OTHERS)), BUILDER),
    Rule(None, checks.settled_parameters, COMPATIBILITY),
    Rule(None, checks.up_to(_VERSIONS), BUILDER),
    Rule(("CAST",), _casts, COMPATIBILITY),
    Rule(_OPERATORS, checks.types("float32", "float16", "int8", "uint8"), BUILDER),
    Rule(None, checks.rank(0, 4), BUILDER),
    Rule(None, checks.fused("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH"), COMPATIBILITY),
    Rule(names("ADD MUL"), _spreads, COMPATIBILITY),
    Rule(names("PAD PADV2 MIRROR_PAD"), _pads, COMPATIBILITY),
    Rule(("RESIZE_BILINEAR",), _resizes, COMPATIBILITY),
    Rule(("SOFTMAX",), checks.plain_softmax, COMPATIBILITY),
    Rule(("STRIDED_SLICE",), checks.keeps_axes, COMPATIBILITY),
    Rule(names("SLICE STRIDED_SLICE"), checks.rank(3, 4), COMPATIBILITY),
)
