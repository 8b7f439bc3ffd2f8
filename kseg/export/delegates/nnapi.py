"""NNAPI 1.3, of Android 11 and later; deprecated since Android 15. As of 2025.

A phone's driver may refuse more than NNAPI does.
"""

from kseg.export.delegates import checks
from kseg.export.delegates.checks import LITERT, Rule, by_name, names

SOURCE = LITERT + "delegates/nnapi/nnapi_delegate.cc"
TYPES = "https://developer.android.com/ndk/reference/group/neural-networks"

_FLOAT = names("ABS COS DIV ELU EXP LOG LOG_SOFTMAX POW RSQRT SIN SQRT SUM")
_FLOAT_OR_8_BITS = names("""
    AVERAGE_POOL_2D BATCH_TO_SPACE_ND CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE FULLY_CONNECTED HARD_SWISH
    L2_NORMALIZATION LEAKY_RELU LOGISTIC MAX_POOL_2D MEAN PAD PADV2 PRELU QUANTIZE REDUCE_MAX REDUCE_MIN RELU RELU6
    RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SOFTMAX SPACE_TO_BATCH_ND SPACE_TO_DEPTH SQUEEZE
    STRIDED_SLICE TANH TRANSPOSE TRANSPOSE_CONV
""")
_INTEGERS_TOO = names("ADD CAST EXPAND_DIMS MAXIMUM MINIMUM MUL PACK SLICE SPLIT SUB TILE")
_OTHERS = names("ARG_MAX ARG_MIN DEQUANTIZE EQUAL GATHER GREATER GREATER_EQUAL LESS LESS_EQUAL NEG NOT_EQUAL SELECT")
_VERSIONS = by_name(
    {
        1: """
            ABS CAST COS DIV ELU EXP EXPAND_DIMS LEAKY_RELU LOG LOG_SOFTMAX POW PRELU RESHAPE SIN SQRT SQUEEZE SUM TILE
        """,
        2: """
            ADD ARG_MAX ARG_MIN AVERAGE_POOL_2D BATCH_TO_SPACE_ND CONCATENATION EQUAL GATHER GREATER GREATER_EQUAL
            L2_NORMALIZATION LESS LESS_EQUAL LOGISTIC MAX_POOL_2D MEAN MUL NEG NOT_EQUAL PACK PAD PADV2 QUANTIZE
            REDUCE_MAX REDUCE_MIN RELU RELU6 RELU_N1_TO_1 RSQRT SELECT SLICE SOFTMAX SPACE_TO_BATCH_ND SPACE_TO_DEPTH
            STRIDED_SLICE TANH TRANSPOSE
        """,
        3: "DEPTHWISE_CONV_2D MAXIMUM MINIMUM RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SPLIT SUB",
        4: "TRANSPOSE_CONV",
        5: "CONV_2D FULLY_CONNECTED",
    }
)


def _unpacks(operator):
    if operator.inputs[0].dtype == "float16":
        return None
    return checks.up_to({"DEQUANTIZE": 2})(operator) or checks.unpacks(operator)


def _pools(operator):
    high, wide = operator.option("FilterHeight"), operator.option("FilterWidth")
    large = operator.inputs[0].dtype in ("int8", "uint8") and high * wide > 256
    return f"a window of {high} x {wide}, above 256 values, unless an accelerator is named" if large else None


def _labels(operator):
    dtype = operator.outputs[0].dtype
    return None if dtype == "int32" else f"gives {dtype}; it gives int32"


RULES = (
    Rule(None, checks.among((*_FLOAT, *_FLOAT_OR_8_BITS, *_INTEGERS_TOO, *_OTHERS)), SOURCE),
    Rule(None, checks.settled_parameters, SOURCE),
    Rule(_FLOAT, checks.types("float32"), SOURCE),
    Rule(_FLOAT_OR_8_BITS, checks.types("float32", "int8", "uint8"), TYPES),
    Rule(_INTEGERS_TOO, checks.types("float32", "int8", "uint8", "int32"), TYPES),
    Rule(("TRANSPOSE_CONV",), checks.settled_weights, SOURCE),
    Rule(names("DEPTHWISE_CONV_2D TRANSPOSE_CONV"), checks.no_hybrid, SOURCE),
    Rule(("DEQUANTIZE",), _unpacks, SOURCE),
    Rule(None, checks.up_to(_VERSIONS), SOURCE),
    Rule(("CONV_2D",), checks.with_bias, SOURCE),
    Rule(("AVERAGE_POOL_2D",), _pools, SOURCE),
    Rule(names("ARG_MAX ARG_MIN"), _labels, SOURCE),
    Rule(("CONCATENATION",), checks.fused("NONE"), SOURCE),
    Rule(None, checks.rank(0, 4), SOURCE),
)
