"""XNNPACK, which LiteRT uses on CPUs unless told otherwise. Rules of the delegate's source, as of 2025."""

from kseg.export.delegates import checks
from kseg.export.delegates.checks import LITERT, Rule, names

SOURCE = LITERT + "delegates/xnnpack/xnnpack_delegate.cc"

_FLOAT_OR_8_BITS = names("""
    ADD CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE FULLY_CONNECTED LEAKY_RELU LOGISTIC MAX_POOL_2D MEAN MUL
    PAD REDUCE_MAX REDUCE_MIN RESHAPE RESIZE_BILINEAR SLICE SPACE_TO_DEPTH SPLIT STRIDED_SLICE SUB SUM TANH TRANSPOSE
    TRANSPOSE_CONV
""")
_FLOAT = names("""
    ABS AVERAGE_POOL_2D BATCH_MATMUL CEIL COS DIV EXP FLOOR GELU HARD_SWISH LOG MAXIMUM MINIMUM NEG PRELU RELU RELU6
    RELU_N1_TO_1 ROUND RSQRT SIN SOFTMAX SQRT SQUARE SQUARED_DIFFERENCE
    Convolution2DTransposeBias MaxPoolingWithArgmax2D MaxUnpooling2D
""")


def _by_output(operator):
    return [tensor.scale / operator.outputs[0].scale for tensor in operator.inputs if tensor]


def _product_by_output(operator):
    product = 1.0
    for tensor in operator.inputs:
        product *= tensor.scale if tensor else 1.0
    return [product / operator.outputs[0].scale]


def _pools(operator):
    high = operator.option("StrideH") > operator.option("FilterHeight")
    wide = operator.option("StrideW") > operator.option("FilterWidth")
    return "strides beyond its window" if high or wide else None


def _quantizes(operator):
    taken, given = operator.inputs[0].dtype, operator.outputs[0].dtype
    return None if taken in ("float32", given) else f"turns {taken} into {given}"


_ADDS, _POOLS = names("ADD SUB"), names("AVERAGE_POOL_2D MAX_POOL_2D")
_PLANES = names("CONV_2D DEPTHWISE_CONV_2D TRANSPOSE_CONV RESIZE_BILINEAR")

RULES = (
    Rule(None, checks.among((*_FLOAT_OR_8_BITS, *_FLOAT, "DEQUANTIZE", "ELU", "QUANTIZE")), SOURCE),
    Rule(None, checks.settled_parameters, SOURCE),
    Rule(None, checks.settled_weights, SOURCE),
    Rule(_FLOAT_OR_8_BITS, checks.types("float32", "int8", "uint8"), SOURCE),
    Rule(_FLOAT, checks.types("float32"), SOURCE),
    Rule(("ELU",), checks.types("float32", "int8"), SOURCE),
    Rule(_FLOAT_OR_8_BITS, checks.one_type, SOURCE),
    Rule(names("CONV_2D DEPTHWISE_CONV_2D"), checks.with_bias, SOURCE),
    Rule(("DEPTHWISE_CONV_2D",), checks.no_hybrid, SOURCE),
    Rule(None, checks.fused("NONE", "RELU", "RELU_N1_TO_1", "RELU6"), SOURCE),
    Rule(_ADDS, checks.ratio(2**-10, 2**8, _by_output), SOURCE),
    Rule(("MUL",), checks.ratio(2**-16, 2**8, _product_by_output), SOURCE),
    Rule(("CONCATENATION",), checks.inputs(2, 5), SOURCE),
    Rule(("RESHAPE",), checks.one_scale, SOURCE),
    Rule(_POOLS, _pools, SOURCE),
    Rule(("SOFTMAX",), checks.plain_softmax, SOURCE),
    Rule(("STRIDED_SLICE",), checks.keeps_axes, SOURCE),
    Rule(("STRIDED_SLICE",), checks.unit_strides, SOURCE),
    Rule(_PLANES, checks.rank(4, 4), SOURCE),
    Rule(None, checks.rank(0, 6), SOURCE),
    Rule(("DEQUANTIZE",), checks.unpacks, SOURCE),
    Rule(("QUANTIZE",), checks.types("float32", "int8", "uint8"), SOURCE),
    Rule(("QUANTIZE",), _quantizes, SOURCE),
    Rule(("QUANTIZE",), checks.ratio(2**-8, 2**7, _by_output, closed=True), SOURCE),
)
