"""What tf2onnx writes, said again where onnx.checker or ONNX Runtime would misread it."""

import math

import numpy as np

from kseg.errors import need
from kseg.export.onnx.folding import keep


def join_biases(graph):
    """To a convolution with a bias to which another vector is added, tf2onnx gives both, where ONNX knows one."""
    onnx = need("onnx", "onnx")
    for node in list(graph.node):
        if node.op_type in ("Conv", "ConvTranspose") and len(node.input) > 3:
            joined = f"{node.output[0]}/bias"
            addition = onnx.helper.make_node("Add", list(node.input[2:]), [joined])
            graph.node.insert(list(graph.node).index(node), addition)
            del node.input[2:]
            node.input.append(joined)


def keep_used_domains(proto):
    """tf2onnx names its own set of operators, too, whether it is used or not."""
    used = {node.domain for node in proto.graph.node}
    keep(proto.opset_import, [entry for entry in proto.opset_import if entry.domain in used])


def modernise_nearest(graph):
    """Nearest-neighbour resizing in words that ONNX did not give up with opset 13: floor((x + 0.5) / f) both."""
    for node in graph.node:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        mode = attributes.get("coordinate_transformation_mode")
        if node.op_type == "Resize" and mode is not None and mode.s == b"tf_half_pixel_for_nn":
            mode.s, attributes["nearest_mode"].s = b"half_pixel", b"round_prefer_ceil"


def resize_to_sizes(proto):
    """Say the size that an image is resized to, where the factor in float32 would leave it a pixel short.

    Of 7 to 31 pixels the factor is 4.42857122, and 7 times that, rounded down as ONNX has it, is 30.
    """
    onnx = need("onnx", "onnx")
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    resizings = [node for node in proto.graph.node if node.op_type == "Resize" and len(node.input) == 3]
    for node in resizings:  # in the order of their computation: what the first gives, the second takes
        factors = values.get(node.input[2])
        if factors is None or np.all(factors == np.round(factors)):
            continue
        given = _shapes(proto).get(node.input[0], [0])
        if 0 in given:  # open
            continue
        sizes = [size * float(factor) for size, factor in zip(given, factors, strict=True)]
        if any(math.floor(size) != round(size) for size in sizes):
            name = f"{node.output[0]}/sizes"
            wanted = np.array([round(size) for size in sizes], np.int64)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(wanted, name))
            del node.input[2]
            node.input.extend(["", name])


def _shapes(proto):
    """{name of what a node gives: its sizes, 0 where they are open}."""
    whole = need("onnx.shape_inference", "onnx").infer_shapes(proto)
    infos = (*whole.graph.input, *whole.graph.value_info)
    return {info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim] for info in infos}


def keep_zeros_before_pooling(graph):
    """Pad with almost 0 in front of a maximum. ONNX Runtime 1.31 takes a padding with 0 into the MaxPool behind it,
    where it counts as minus infinity: wrong wherever all that is near the border is negative.
    """
    onnx = need("onnx", "onnx")
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    name = "almost_0"
    for node in graph.node:
        value = values.get(node.input[2], 1) if len(node.input) > 2 and node.input[2] else 0
        modes = [attribute.s for attribute in node.attribute if attribute.name == "mode"]
        if node.op_type == "Pad" and modes in ([], [b"constant"]) and np.all(value == 0) and _pooled(graph, node):
            inputs = [*node.input, ""][:2]
            del node.input[:]
            node.input.extend([*inputs, name])
    if any(name in node.input for node in graph.node):
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(1e-30, np.float32), name))


def _pooled(graph, node):
    """Whether what a node gives goes into a MaxPool, turned or not."""
    users = [user for user in graph.node if node.output[0] in user.input]
    return any(user.op_type == "MaxPool" or (user.op_type == "Transpose" and _pooled(graph, user)) for user in users)
