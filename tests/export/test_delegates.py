"""Every rule of every delegate, on a small operator that it alone refuses and on a near one that is taken."""

from dataclasses import replace

import numpy as np
import pytest

from kseg.export.delegates import RULES, Refusal, refusals
from kseg.export.tflite.flatbuffer import schema
from kseg.export.tflite.reader import Operator, Tensor


def tensor(dtype="float32", shape=(1, 4, 4, 1), scale=None):
    """What is computed while the network runs; shape (batch, height, width, channels)."""
    zero_point = None if scale is None else 0
    return Tensor("x", shape, dtype, scales=int(scale is not None), scale=scale, zero_point=zero_point)


def scaled(scale):
    """An image of 8-bit integers of this scale."""
    return tensor("int8", scale=scale)


def weights(*shape, dtype="float32"):
    """A constant of which no rule asks the values."""
    return Tensor("weights", shape, dtype, constant=True)


def integers(*values):
    """A constant shape, size, axes or strides; of pairs: paddings (before, after), one pair for each dimension."""
    array = np.array(values, "<i4")
    return Tensor("integers", array.shape, "int32", constant=True, data=array.tobytes())


def operator(name, *inputs, gives=None, version=1, custom=False, fused="NONE", **options):
    """An operator that gives one tensor: by default the like of its first input, and that by default a float image."""
    inputs = inputs or (tensor(),)
    output = replace(gives or inputs[0], name="y")
    options["FusedActivationFunction"] = getattr(schema.ActivationFunctionType, fused)
    output.maker = Operator(name, version, custom, inputs, (output,), options)
    return output.maker


def convolution(image, kernel=None, biased=True, dilation=(1, 1), name="CONV_2D"):
    """By default with constants of the types that go with the image; the kernel is one pixel large."""
    kernel_dtype, bias_dtype = ("int8", "int32") if image.dtype == "int8" else ("float32", "float32")
    kernel = kernel or weights(1, 1, 1, 1, dtype=kernel_dtype)
    bias = weights(1, dtype=bias_dtype) if biased else None
    return operator(name, image, kernel, bias, DilationHFactor=dilation[0], DilationWFactor=dilation[1])


def depthwise(image, kernel=None):
    return convolution(image, kernel, name="DEPTHWISE_CONV_2D")


def pooling(image, window=(1, 1), stride=(1, 1), fused="NONE"):
    (high, wide), (down, right) = window, stride
    sizes = {"FilterHeight": high, "FilterWidth": wide, "StrideH": down, "StrideW": right}
    return operator("AVERAGE_POOL_2D", image, fused=fused, **sizes)


def resize(image, size=None, **options):
    return operator("RESIZE_BILINEAR", image, size or integers(4, 4), **options)


def mean(image, *axes):
    """The axes are kept, of size 1."""
    shape = tuple(1 if axis in axes else edge for axis, edge in enumerate(image.shape))
    return operator("MEAN", image, integers(*axes), gives=replace(image, shape=shape))


def strided_slice(image, strides=(1, 1, 1, 1), gives=None, **masks):
    """A slice from the first to the last pixel."""
    return operator("STRIDED_SLICE", image, integers(0, 0, 0, 0), SHAPE, integers(*strides), gives=gives, **masks)


def name_of(rule):
    """The first operator that a rule is for, and its check: "ADD types"; "any ..." if it is for all."""
    check = rule.check.__qualname__.split(".")[0].removeprefix("_")  # a closure's is "types.<locals>.check"
    return f"{rule.operators[0] if rule.operators else 'any'} {check}"


IMAGE, HALF, BYTES, COUNTS = map(tensor, ("float32", "float16", "int8", "int32"))
UNBATCHED, MATRIX = tensor(shape=(4, 4, 1)), tensor(shape=(4, 4))
LABELS, LONG_LABELS = tensor("int32", (1, 4, 4)), tensor("int64", (1, 4, 4))
SHAPE, MOVING_SIZE = integers(1, 4, 4, 1), tensor("int32", (2,))
KERNEL_8, BIAS = weights(1, 1, 1, 1, dtype="int8"), weights(1)
# What is unpacked when the file is loaded counts as a constant.
(UNPACKED,) = operator("DEQUANTIZE", weights(1, 1, 1, 1, dtype="float16"), gives=tensor(shape=(1, 1, 1, 1))).outputs

# Delegate, its rule, the reason that this gives; the operator that it refuses, and one that every rule takes.
# fmt: off
ROWS = [
    # ---- xnnpack
    pytest.param("xnnpack", "any among", "not among its operators", operator("LOG_SOFTMAX"), operator("EXP")),
    pytest.param("xnnpack", "any among", "a custom operator",
                 operator("Erf", custom=True), operator("MaxUnpooling2D", IMAGE, IMAGE, custom=True)),
    pytest.param("xnnpack", "any among", "a custom operator",
                 operator("ADD", IMAGE, IMAGE, custom=True), operator("ADD", IMAGE, IMAGE)),
    pytest.param("xnnpack", "any settled_parameters", "a shape or size computed while running",
                 resize(IMAGE, MOVING_SIZE), resize(IMAGE)),
    pytest.param("xnnpack", "any settled_weights", "weights computed while running",
                 convolution(IMAGE, kernel=IMAGE), convolution(IMAGE, kernel=UNPACKED)),
    pytest.param("xnnpack", "ADD types", "works on int32; it takes float32, int8, uint8",
                 operator("ADD", COUNTS, COUNTS), operator("ADD", BYTES, BYTES)),
    pytest.param("xnnpack", "ABS types", "works on int8; it takes float32", operator("ABS", BYTES), operator("ABS")),
    pytest.param("xnnpack", "ELU types", "works on uint8; it takes float32, int8",
                 operator("ELU", tensor("uint8")), operator("ELU", BYTES)),
    pytest.param("xnnpack", "ADD one_type", "mixes float32 and int8",
                 operator("ADD", IMAGE, BYTES), operator("ADD", IMAGE, IMAGE)),
    pytest.param("xnnpack", "CONV_2D with_bias", "no bias", convolution(IMAGE, biased=False), convolution(IMAGE)),
    pytest.param("xnnpack", "DEPTHWISE_CONV_2D no_hybrid", "float values with 8-bit weights (dynamic range)",
                 depthwise(IMAGE, KERNEL_8), depthwise(IMAGE)),
    pytest.param("xnnpack", "any fused", "fused activation TANH",
                 operator("ADD", IMAGE, IMAGE, fused="TANH"), operator("ADD", IMAGE, IMAGE, fused="RELU6")),
    pytest.param("xnnpack", "ADD ratio", "scales too far apart",
                 operator("ADD", scaled(1), scaled(2**8)), operator("ADD", scaled(1), scaled(2**7))),
    pytest.param("xnnpack", "ADD ratio", "scales too far apart",
                 operator("ADD", scaled(1), scaled(2**-11)), operator("ADD", scaled(1), scaled(2**-10))),
    pytest.param("xnnpack", "MUL ratio", "scales too far apart",
                 operator("MUL", scaled(2), scaled(2**-17)), operator("MUL", scaled(2), scaled(2**-16))),
    pytest.param("xnnpack", "MUL ratio", "scales too far apart",
                 operator("MUL", scaled(2), scaled(2**8)), operator("MUL", scaled(2), scaled(2**7))),
    pytest.param("xnnpack", "CONCATENATION inputs", "6 inputs; it takes 2 to 5",
                 operator("CONCATENATION", *[IMAGE] * 6), operator("CONCATENATION", *[IMAGE] * 5)),
    pytest.param("xnnpack", "RESHAPE one_scale", "changes scale or zero point",
                 operator("RESHAPE", scaled(1), SHAPE, gives=scaled(2)), operator("RESHAPE", scaled(1), SHAPE)),
    pytest.param("xnnpack", "AVERAGE_POOL_2D pools", "strides beyond its window",
                 pooling(IMAGE, window=(1, 2), stride=(2, 2)), pooling(IMAGE, window=(2, 2), stride=(2, 2))),
    pytest.param("xnnpack", "SOFTMAX plain_softmax", "beta 2; it takes 1",
                 operator("SOFTMAX", Beta=2.0), operator("SOFTMAX", Beta=1.0)),
    pytest.param("xnnpack", "STRIDED_SLICE keeps_axes", "adds or drops an axis",
                 strided_slice(IMAGE, gives=UNBATCHED, ShrinkAxisMask=1), strided_slice(IMAGE)),
    pytest.param("xnnpack", "STRIDED_SLICE unit_strides", "a stride other than 1",
                 strided_slice(IMAGE, (1, 2, 1, 1)), strided_slice(IMAGE)),
    pytest.param("xnnpack", "CONV_2D rank", "a tensor of 3 dimensions; it takes 4",
                 resize(UNBATCHED), resize(IMAGE)),
    pytest.param("xnnpack", "any rank", "a tensor of 7 dimensions; it takes 0 to 6",
                 operator("ABS", tensor(shape=(1,) * 7)), operator("ABS", tensor(shape=(1,) * 6))),
    pytest.param("xnnpack", "DEQUANTIZE unpacks", "unpacks float16 while running",
                 operator("DEQUANTIZE", HALF, gives=IMAGE), operator("DEQUANTIZE", BYTES, gives=IMAGE)),
    pytest.param("xnnpack", "QUANTIZE types", "works on int16; it takes float32, int8, uint8",
                 operator("QUANTIZE", gives=tensor("int16")), operator("QUANTIZE", gives=BYTES)),
    pytest.param("xnnpack", "QUANTIZE quantizes", "turns int8 into uint8",
                 operator("QUANTIZE", BYTES, gives=tensor("uint8")), operator("QUANTIZE", BYTES)),
    pytest.param("xnnpack", "QUANTIZE ratio", "scales too far apart",
                 operator("QUANTIZE", scaled(2**-9), gives=scaled(1)),
                 operator("QUANTIZE", scaled(2**-8), gives=scaled(1))),
    pytest.param("xnnpack", "QUANTIZE ratio", "scales too far apart",
                 operator("QUANTIZE", scaled(2**8), gives=scaled(1)),
                 operator("QUANTIZE", scaled(2**7), gives=scaled(1))),
    # ---- gpu
    pytest.param("gpu", "any among", "not among its operators", operator("CEIL"), operator("FLOOR")),
    pytest.param("gpu", "any settled_parameters", "a shape or size computed while running",
                 resize(IMAGE, MOVING_SIZE), resize(IMAGE)),
    pytest.param("gpu", "any up_to", "version 2; it takes versions up to 1",
                 operator("PRELU", IMAGE, BIAS, version=2), operator("PRELU", IMAGE, BIAS)),
    pytest.param("gpu", "CAST casts", "turns int8 into float32",
                 operator("CAST", BYTES, gives=IMAGE), operator("CAST", COUNTS, gives=IMAGE)),
    pytest.param("gpu", "ABS types", "works on int32; it takes float32, float16, int8, uint8",
                 operator("ABS", COUNTS), operator("ABS", HALF)),
    pytest.param("gpu", "any rank", "a tensor of 5 dimensions; it takes 0 to 4",
                 operator("ABS", tensor(shape=(1,) * 5)), operator("ABS", IMAGE)),
    pytest.param("gpu", "any fused", "fused activation SIGN_BIT",
                 operator("ADD", IMAGE, IMAGE, fused="SIGN_BIT"), operator("ADD", IMAGE, IMAGE, fused="TANH")),
    pytest.param("gpu", "ADD spreads", "spreads 2 dimensions over 4",
                 operator("ADD", IMAGE, MATRIX), operator("ADD", IMAGE, UNBATCHED)),
    pytest.param("gpu", "PAD pads", "pads other than 3 or 4 dimensions",
                 operator("PAD", MATRIX, integers((0, 0), (0, 0))),
                 operator("PAD", UNBATCHED, integers((0, 0), (0, 0), (0, 0)))),
    pytest.param("gpu", "RESIZE_BILINEAR resizes", "align_corners together with half_pixel_centers",
                 resize(IMAGE, AlignCorners=True, HalfPixelCenters=True), resize(IMAGE, HalfPixelCenters=True)),
    pytest.param("gpu", "SOFTMAX plain_softmax", "beta 2; it takes 1",
                 operator("SOFTMAX", Beta=2.0), operator("SOFTMAX", Beta=1.0)),
    pytest.param("gpu", "STRIDED_SLICE keeps_axes", "adds or drops an axis",
                 strided_slice(IMAGE, gives=UNBATCHED, ShrinkAxisMask=1), strided_slice(IMAGE)),
    pytest.param("gpu", "SLICE rank", "a tensor of 2 dimensions; it takes 3 to 4",
                 operator("SLICE", MATRIX, integers(0, 0), integers(4, 4)),
                 operator("SLICE", UNBATCHED, integers(0, 0, 0), integers(4, 4, 1))),
    # ---- nnapi
    pytest.param("nnapi", "any among", "not among its operators", operator("CEIL"), operator("ABS")),
    pytest.param("nnapi", "any settled_parameters", "a shape or size computed while running",
                 resize(IMAGE, MOVING_SIZE), resize(IMAGE)),
    pytest.param("nnapi", "ABS types", "works on int8; it takes float32", operator("ABS", BYTES), operator("ABS")),
    pytest.param("nnapi", "AVERAGE_POOL_2D types", "works on int32; it takes float32, int8, uint8",
                 pooling(COUNTS), pooling(BYTES)),
    pytest.param("nnapi", "ADD types", "works on int64; it takes float32, int8, uint8, int32",
                 operator("ADD", tensor("int64"), tensor("int64")), operator("ADD", COUNTS, COUNTS)),
    pytest.param("nnapi", "TRANSPOSE_CONV settled_weights", "weights computed while running",
                 operator("TRANSPOSE_CONV", SHAPE, IMAGE, IMAGE, gives=IMAGE),
                 operator("TRANSPOSE_CONV", SHAPE, weights(1, 1, 1, 1), IMAGE, gives=IMAGE)),
    pytest.param("nnapi", "DEPTHWISE_CONV_2D no_hybrid", "float values with 8-bit weights (dynamic range)",
                 depthwise(IMAGE, KERNEL_8), depthwise(BYTES)),
    pytest.param("nnapi", "DEQUANTIZE unpacks", "unpacks int16 while running",
                 operator("DEQUANTIZE", tensor("int16"), gives=IMAGE), operator("DEQUANTIZE", BYTES, gives=IMAGE)),
    pytest.param("nnapi", "DEQUANTIZE unpacks", "version 3; it takes versions up to 2",
                 operator("DEQUANTIZE", BYTES, gives=IMAGE, version=3),
                 operator("DEQUANTIZE", HALF, gives=IMAGE, version=3)),
    pytest.param("nnapi", "any up_to", "version 2; it takes versions up to 1",
                 operator("PRELU", IMAGE, BIAS, version=2), operator("PRELU", IMAGE, BIAS)),
    pytest.param("nnapi", "CONV_2D with_bias", "no bias", convolution(IMAGE, biased=False), convolution(IMAGE)),
    pytest.param("nnapi", "AVERAGE_POOL_2D pools",
                 "a window of 16 x 17, above 256 values, unless an accelerator is named",
                 pooling(BYTES, window=(16, 17)), pooling(BYTES, window=(16, 16))),
    pytest.param("nnapi", "ARG_MAX labels", "gives int64; it gives int32",
                 operator("ARG_MAX", IMAGE, integers(3), gives=LONG_LABELS),
                 operator("ARG_MAX", IMAGE, integers(3), gives=LABELS)),
    pytest.param("nnapi", "CONCATENATION fused", "fused activation RELU",
                 operator("CONCATENATION", IMAGE, IMAGE, fused="RELU"), operator("CONCATENATION", IMAGE, IMAGE)),
    pytest.param("nnapi", "any rank", "a tensor of 5 dimensions; it takes 0 to 4",
                 operator("ABS", tensor(shape=(1,) * 5)), operator("ABS", IMAGE)),
    # ---- edgetpu
    pytest.param("edgetpu", "any among", "not among its operators", operator("ABS", BYTES), operator("RELU", BYTES)),
    pytest.param("edgetpu", "any types", "works on float32; it takes int8, uint8",
                 operator("RELU", IMAGE), operator("RELU", BYTES)),
    pytest.param("edgetpu", "any settled_parameters", "a shape or size computed while running",
                 resize(BYTES, MOVING_SIZE), resize(BYTES)),
    pytest.param("edgetpu", "any settled_weights", "weights computed while running",
                 convolution(BYTES, kernel=BYTES), convolution(BYTES)),
    pytest.param("edgetpu", "any sizes", "a size left open",
                 operator("RELU", tensor("int8", (None, 4, 4, 1))), operator("RELU", BYTES)),
    pytest.param("edgetpu", "any sizes", "a batch above 1, or more than three dimensions",
                 operator("RELU", tensor("int8", (2, 4, 4, 1))), operator("RELU", BYTES)),
    pytest.param("edgetpu", "AVERAGE_POOL_2D fused", "fused activation RELU",
                 pooling(BYTES, fused="RELU"), pooling(BYTES)),
    pytest.param("edgetpu", "CONCATENATION joins", "joins a constant, which must be zero",
                 operator("CONCATENATION", BYTES, KERNEL_8), operator("CONCATENATION", BYTES, BYTES)),
    pytest.param("edgetpu", "CONV_2D dilates", "height and width dilated differently",
                 convolution(BYTES, dilation=(2, 1)), convolution(BYTES, dilation=(2, 2))),
    pytest.param("edgetpu", "MEAN reduces", "works along the batch", mean(BYTES, 0), mean(BYTES, 1, 2)),
    pytest.param("edgetpu", "MEAN reduces", "a mean over channels whose number is no multiple of 4",
                 mean(tensor("int8", (1, 4, 4, 6)), 3), mean(tensor("int8", (1, 4, 4, 8)), 3)),
    pytest.param("edgetpu", "SOFTMAX softmax", "softmax of more than one row of 16000 values",
                 operator("SOFTMAX", tensor("int8", (1, 16_001))), operator("SOFTMAX", tensor("int8", (1, 16_000)))),
    pytest.param("edgetpu", "STRIDED_SLICE keeps_axes", "adds or drops an axis",
                 strided_slice(BYTES, EllipsisMask=1), strided_slice(BYTES)),
    pytest.param("edgetpu", "STRIDED_SLICE unit_strides", "a stride other than 1",
                 strided_slice(BYTES, (1, 2, 1, 1)), strided_slice(BYTES)),
]
# fmt: on


@pytest.mark.parametrize(
    ("delegate", "name", "reason", "refused", "taken"), ROWS, ids=[" ".join(row.values[:2]) for row in ROWS]
)
def test_a_rule_refuses_what_no_other_does(delegate, name, reason, refused, taken, monkeypatch):
    (rule,) = (rule for rule in RULES[delegate] if name_of(rule) == name)
    assert refusals([refused])[delegate] == (Refusal(refused.name, "y", reason, rule.source),)
    assert refusals([taken])[delegate] == ()
    monkeypatch.setitem(RULES, delegate, tuple(other for other in RULES[delegate] if other is not rule))
    assert refusals([refused])[delegate] == ()


def test_every_rule_has_a_row():
    rules = [(delegate, name_of(rule)) for delegate, rules in RULES.items() for rule in rules]
    assert sorted(rules) == sorted({row.values[:2] for row in ROWS})
