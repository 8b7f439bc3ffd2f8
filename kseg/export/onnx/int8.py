"""Static 8-bit quantisation with onnxruntime.quantization: QuantizeLinear - DequantizeLinear pairs, per channel.

Its quantiser sees the structure, the range of every activation, and for each kernel a stand-in that holds the least
and the greatest weight of every channel, which is all that a scale depends on. The kernels themselves are rounded
here, piece by piece. So the cost hardly grows with the network.

Activations are uint8, weights int8 of which 7 bits are used: processors with AVX2 but without VNNI add two products in
16 bits, and full 8 bits overflow there. On such a one, with a U-Net on the nuclei, the scores were off by 10.4 % (rms)
with 8 bits, by 4.7 % with 7, and by 3.8 % with 8 bits on a path that does not overflow and takes longer.
"""

from collections import Counter
from copy import deepcopy

import numpy as np

from kseg.errors import CheckError, InputError, need
from kseg.export.bias import shift
from kseg.export.onnx.equalise import channel_axes, equalise
from kseg.export.onnx.folding import keep
from kseg.export.onnx.structure import with_weights_as_inputs
from kseg.export.onnx.weights import PIECE_BYTES, write
from kseg.runtime.chatter import muted
from kseg.runtime.resize import resize

# Softmax, Sigmoid and ArgMax are left in float: they mostly come last, and lose most. So is what takes a Softmax: ONNX
# Runtime would make Softmax - QuantizeLinear one operator, whose numbers wrap round beyond the largest that the
# calibration saw (1.31.1).
OPERATORS = (
    *("Conv", "ConvTranspose", "MatMul", "Gemm", "Relu", "LeakyRelu", "Clip", "Add", "Mul", "Concat", "Resize"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "Pad", "Slice", "Transpose", "Reshape", "Squeeze", "Unsqueeze"),
)
# Where a kernel has its output channels.
_CHANNELS_AXIS = {"Conv": 0, "ConvTranspose": 1}
_LARGEST = 127
# What may lie between the image and the first convolution, and keeps extremes at extremes.
_POINTWISE = {"Cast", "Sub", "Add", "Mul", "Div", "Concat", "Gather", "Split", "Slice", "Pad", "Identity"}
_POINTWISE |= {"Transpose", "Reshape", "Squeeze", "Unsqueeze"}


def quantise(proto, weights, folder, images, float_nodes=()):
    """Quantise a float graph; its input and its output keep their types.

    Args:
        proto: ModelProto without its weights, see `kseg.export.onnx.structure`; left as it is.
        weights: {name of an initializer: NumPy array}.
        folder: pathlib.Path of an empty folder for temporary files.
        images: iterable of uint8 or float [h, w, 3] in 0..255, like those the network will see.
        float_nodes: names of nodes that stay in float.
    Returns:
        (ModelProto, {name: NumPy array}) in the same form.
    Raises:
        InputError: there are no images, or no node has such a name.
        CheckError: an activation is not finite.
    """
    unknown = set(float_nodes) - {node.name for node in proto.graph.node}
    if unknown:
        raise InputError(f"no layer with weights and no node of the graph is called {', '.join(sorted(unknown))}")
    typed = need("onnx", "onnx").shape_inference.infer_shapes(with_weights_as_inputs(proto, weights), strict_mode=True)
    del typed.graph.input[1:]
    weights, ranges = equalise(typed, weights, measure_ranges(typed, weights, folder, images))
    known = channel_axes(typed)
    means = {name: mean for name, (_, _, mean) in ranges.items() if known.get(name) == 1}  # as convolutions take them
    ranges = {name: (low.min(), high.max()) for name, (low, high, _) in ranges.items()}
    axes = {}
    for node in typed.graph.node:
        if node.op_type in _CHANNELS_AXIS and node.input[1] in weights:
            axes[node.input[1]] = _CHANNELS_AXIS[node.op_type]
    thin = {name: _stand_in(value, axes[name]) if name in axes else value for name, value in weights.items()}
    filters = [
        deepcopy(node) for node in typed.graph.node if node.op_type in _CHANNELS_AXIS
    ]  # the quantiser changes them
    quantised, kernels = _with_kernels(_run_quantizer(typed, thin, ranges, float_nodes), weights, axes)
    _take_back_shifts(quantised, kernels, weights, filters, means)
    return quantised, kernels


# ---- ranges


def measure_ranges(proto, weights, folder, images):
    """Run a float graph on images.

    Args:
        proto: ModelProto without its weights that knows the type of every tensor.
        weights, folder, images: see `quantise`.
    Returns:
        {name of a float32 activation: (least, greatest, mean), arrays [channels], or [1] where it is not known which
        axis holds the channels (`channel_axes`)}. What is made of the image before the first convolution
        reaches as far as pixels from 0 to 255 take it, whether the images have such pixels or not.
    """
    onnx = need("onnx", "onnx")
    known = (*proto.graph.input, *proto.graph.value_info, *proto.graph.output)
    activations = [entry.name for entry in known if entry.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
    measure = _watch(proto, weights, folder / "all.onnx", activations)
    height, width = (dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:3])
    ranges, shape = {}, None
    for pixels in images or ():
        pixels = np.asarray(pixels)
        pixels = resize(pixels, (height, width) if height else pixels.shape[:2])  # for any size: as they are
        shape = pixels.shape
        for name, found in measure(pixels).items():
            if not np.isfinite(found).all():
                least, greatest, mean = found
                raise CheckError(f"calibration: {name} computes {least.min()} to {greatest.max()}, on average {mean}")
            low, high, means = ranges.get(name, (np.inf, -np.inf, ()))
            ranges[name] = (np.minimum(low, found[0]), np.maximum(high, found[1]), (*means, found[2]))
    ranges = {name: (low, high, np.mean(means, 0)) for name, (low, high, means) in ranges.items()}
    if shape is None:
        raise InputError("8 bits need images for calibration, and there are none: give some (--calibrate DATA)")
    before = [name for name in activations if name in _pixels(proto.graph, weights)]
    measure = _watch(proto, weights, folder / "before.onnx", before)
    black, white = measure(np.zeros(shape)), measure(np.full(shape, 255))
    for name in before:
        low, high = np.minimum(black[name][0], white[name][0]), np.maximum(black[name][1], white[name][1])
        ranges[name] = (low, high, ranges[name][2])
    return ranges


def _watch(proto, weights, file, names):
    """A function image [h, w, 3] -> {name of a tensor: (least, greatest, mean) of each channel}."""
    onnx = need("onnx", "onnx")
    runtime = need("onnxruntime", "onnx")
    watching = onnx.ModelProto()
    watching.CopyFrom(proto)
    graph = watching.graph
    axes, shapes = channel_axes(proto), (*proto.graph.input, *proto.graph.value_info, *proto.graph.output)
    dimensions = {entry.name: len(entry.type.tensor_type.shape.dim) for entry in shapes}
    keep(graph.node, _leading_to(graph.node, names))
    del graph.output[:]
    for name in names:
        others = [axis for axis in range(dimensions[name]) if axis != axes.get(name)]
        for kind in ("Min", "Max", "Mean"):  # a mean is finite only if every part is; the other two may pass over NaN
            over = {"axes": others} if others else {}
            node = onnx.helper.make_node(f"Reduce{kind}", [name], [f"{name}/{kind}"], keepdims=0, **over)
            graph.node.append(node)
            graph.output.append(onnx.helper.make_tensor_value_info(f"{name}/{kind}", onnx.TensorProto.FLOAT, None))
    used = {name for node in graph.node for name in node.input}
    # ONNX Runtime only maps a second file into memory.
    write(watching, {name: value for name, value in weights.items() if name in used}, file, external_above_bytes=0)
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    with muted():
        session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    dtype = np.uint8 if "uint8" in image.type else np.float32

    def measure(pixels):
        values = session.run(None, {image.name: np.clip(pixels, 0, 255).astype(dtype)[None]})
        values = [np.reshape(value, -1) for value in values]
        return dict(zip(names, zip(values[::3], values[1::3], values[2::3], strict=True), strict=True))

    return measure


def _leading_to(nodes, names):
    wanted, found = set(names), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            found.append(node)
    return found[::-1]


def _pixels(graph, weights):
    """Names of the tensors that hold the image, shifted or scaled at most."""
    found = {graph.input[0].name}
    constant = {*weights, *(tensor.name for tensor in graph.initializer), ""}
    for node in graph.node:
        if node.op_type in _POINTWISE and found.intersection(node.input) and (found | constant).issuperset(node.input):
            found.update(node.output)
    return found


# ---- rounding


def _stand_in(kernel, axis):
    """[channels, 2, 1, 1], or with the channels second: the least and the greatest weight of every channel.

    A channel of zeros borrows those of all others: the quantizer would give it steps of 1, and so its bias too few.
    """
    others = tuple(place for place in range(kernel.ndim) if place != axis)
    least, greatest = kernel.min(others), kernel.max(others)
    zeros = (least == 0) & (greatest == 0)
    extremes = np.stack([np.where(zeros, kernel.min(), least), np.where(zeros, kernel.max(), greatest)], 1 - axis)
    return extremes.reshape(*extremes.shape, *(1,) * (kernel.ndim - 2))


def _run_quantizer(proto, weights, ranges, float_nodes):
    onnx = need("onnx", "onnx")
    quantization = need("onnxruntime.quantization", "onnx")
    properties = {entry.key: entry.value for entry in proto.metadata_props}
    for name, value in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
    onnx.helper.set_model_props(proto, {"onnx.infer": "onnxruntime.quant"})  # the types are in it already
    limits = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    with muted():
        quantizer = quantization.QDQQuantizer(
            proto,
            per_channel=True,
            reduce_range=True,
            weight_qType=quantization.QuantType.QInt8,
            activation_qType=quantization.QuantType.QUInt8,
            tensors_range=quantization.TensorsData(quantization.CalibrationMethod.MinMax, limits),
            nodes_to_quantize=[],
            nodes_to_exclude=[*float_nodes, *_behind_softmax(proto.graph)],
            op_types_to_quantize=list(OPERATORS),
            extra_options={},
        )
        quantised = quantizer.quantize_model()
        quantizer.model.topological_sort()
    onnx.helper.set_model_props(quantised, properties)
    del quantised.graph.value_info[:]
    return quantised


def _behind_softmax(graph):
    """Names of the nodes that take a Softmax, by way of others that only move values."""
    reached, found = set(), []
    for node in graph.node:
        if node.op_type == "Softmax":
            reached.update(node.output)
        elif reached.intersection(node.input):
            found.append(node.name)
            if node.op_type in ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Identity"):
                reached.update(node.output)
    return found


def _with_kernels(proto, weights, axes):
    """Take the stand-ins out of a quantised graph; returns (the graph, {name: array} of what belongs there)."""
    onnx = need("onnx", "onnx")
    given = {tensor.name: tensor for tensor in proto.graph.initializer}
    kernels = {}
    for name, axis in axes.items():
        if f"{name}_quantized" in given:
            scale = onnx.numpy_helper.to_array(given[f"{name}_scale"])
            kernels[f"{name}_quantized"] = _rounded(weights[name], scale, axis)
        else:
            kernels[name] = weights[name]
    small = [tensor.SerializeToString() for name, tensor in given.items() if name not in kernels]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(onnx.TensorProto.FromString(tensor) for tensor in small)
    return proto, kernels


def _take_back_shifts(proto, kernels, weights, filters, means):
    """Change the biases of a quantised graph by what its rounded kernels add to the results on the average.

    Args:
        proto, kernels: from `_with_kernels`.
        weights: the kernels before they were rounded.
        filters: the convolutions of the float graph.
        means: {name of an activation: [channels]}.
    """
    onnx = need("onnx", "onnx")
    given = {tensor.name: tensor for tensor in proto.graph.initializer}
    array = onnx.numpy_helper.to_array
    uses = Counter(name for node in filters for name in node.input[2:])
    for node in filters:
        taken, kernel, *bias = node.input
        names = [f"{kernel}_quantized", *(f"{name}_quantized" for name in bias)]
        if len(names) < 2 or names[0] not in kernels or names[1] not in given or taken not in means:
            continue
        if uses[bias[0]] > 1:  # of a layer that is called twice, with other means each time
            continue
        errors = _window_errors(weights[kernel], kernels[names[0]], array(given[f"{kernel}_scale"]), node)
        unit = array(given[f"{names[1]}_scale"])
        if len(errors) != unit.size:  # a transposed convolution in groups
            continue
        moved = array(given[names[1]]) - np.rint(shift(errors, means[taken]) / unit)
        given[names[1]].CopyFrom(onnx.numpy_helper.from_array(moved.astype(np.int32), names[1]))


def _window_errors(kernel, rounded, scale, node):
    """float [channels given, channels taken in a group]: rounded weights less the weights, summed over the window; of
    a transposed convolution, over the part of it that each result takes."""
    window = tuple(range(2, kernel.ndim))
    sums, units, parts = kernel.sum(window), rounded.sum(window, dtype=np.int64), 1
    if node.op_type == "ConvTranspose":
        sums, units = sums.T, units.T
        parts = np.prod(next((entry.ints for entry in node.attribute if entry.name == "strides"), [1]))
    return (units * scale.reshape(-1, 1) - sums) / parts


def _rounded(kernel, scale, axis):
    """int8, in the order of memory that `kernel` has."""
    scale = scale.reshape([-1 if place == axis else 1 for place in range(kernel.ndim)])
    result = np.empty_like(kernel, np.int8)
    rows = max(1, PIECE_BYTES * len(kernel) // max(1, kernel.nbytes))
    for start in range(0, len(kernel), rows):
        part = slice(start, start + rows)
        piece = kernel[part] / (scale[part] if axis == 0 else scale)
        result[part] = np.clip(np.rint(piece, out=piece), -_LARGEST, _LARGEST, out=piece)
    return result
