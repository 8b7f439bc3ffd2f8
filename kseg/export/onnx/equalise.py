"""Channels of like size (see `kseg.export.equalise`) in a float graph, before it is quantised."""

from collections import Counter

import numpy as np

from kseg.errors import need
from kseg.export.equalise import LARGEST, Node, factors, share_of_weights
from kseg.export.onnx.folding import reads

_PASS = ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "Pad", "Transpose", "Identity")
# A padding with less than this counts as one with 0 (see `wording.keep_zeros_before_pooling`).
_NOTHING = 1e-20


def channel_axes(proto):
    """{name of an activation: where it has its channels}, as far as that is known: of those of four dimensions."""
    shapes, image = _shapes(proto), proto.graph.input[0].name
    axes = {image: 3} if len(shapes.get(image, ())) == 4 else {}
    for node in proto.graph.node:
        given, made = next((name for name in node.input if name in axes), None), node.output[0]
        if len(shapes.get(made, ())) != 4:
            continue
        if node.op_type in ("Conv", "ConvTranspose"):
            axes[made] = 1
        elif given and node.op_type == "Transpose":
            axes[made] = list(_attribute(node, "perm")).index(axes[given])
        elif given:
            axes[made] = axes[given]
    return axes


def equalise(proto, weights, ranges):
    """Multiply the channels of activations by factors that the weights undo.

    Args:
        proto: ModelProto without its weights that knows the type of every tensor; where several nodes add one bias,
            they get biases of their own.
        weights: {name of an initializer: NumPy array}.
        ranges: {name of an activation: (least, greatest, mean) of each channel, arrays}, along `channel_axes`.
    Returns:
        (the changed weights, the `ranges` of the changed graph).
    """
    graph = _Graph(proto, weights, set(ranges))
    nodes = [graph.node(node) for node in proto.graph.node]
    held = [entry.name for entry in (*proto.graph.input, *proto.graph.output) if entry.name in ranges]
    channels = {name: len(limits[0]) for name, limits in ranges.items()}
    found = factors(nodes, channels, held, graph.reach(ranges))
    changed = dict(weights)
    for node, known in zip(proto.graph.node, nodes, strict=True):
        if known.kind in ("filter", "each"):
            _scale(node, known.kind, changed, found[known.given[0]], found[known.made[0]])
    return changed, {name: tuple(limit * found[name] for limit in limits) for name, limits in ranges.items()}


class _Graph:
    """Where channels are in a graph, and what takes what."""

    def __init__(self, proto, weights, activations):
        self._nodes, self._weights, self._activations = proto.graph.node, weights, activations
        self._axes, self._shapes = channel_axes(proto), _shapes(proto)
        self._uses = Counter(name for node in proto.graph.node for name in reads(node))
        tensor = need("onnx", "onnx").numpy_helper.to_array
        self._small = {entry.name: tensor(entry) for entry in proto.graph.initializer}

    def node(self, node):
        """An ONNX node as a Node."""
        given = tuple(name for name in dict.fromkeys(reads(node)) if name in self._activations)
        made = tuple(name for name in node.output if name in self._activations)
        alike = made and given and all(name in self._axes for name in (*given, *made))
        kind = self._kind(node, given) if alike else "other"
        return Node(kind, given, made, self._weights_of(node) if kind == "filter" else None)

    def _kind(self, node, given):
        axis, made = self._axes[node.output[0]], node.output[0]
        if node.op_type in ("Conv", "ConvTranspose"):
            return self._kind_of_filter(node, given)
        if node.op_type in _PASS and given == (node.input[0],):
            nothing = node.op_type != "Pad" or self._pads_with_nothing(node)
            return "pass" if self._channels(given[0]) == self._channels(made) and nothing else "other"
        if any(self._axes[name] != axis for name in given):
            return "other"
        if node.op_type == "Concat" and list(given) == list(node.input):
            return "join" if _attribute(node, "axis") % 4 == axis else "other"
        if node.op_type in ("Add", "Sub") and list(given) == list(node.input):
            return "sum"
        return "other"

    def _kind_of_filter(self, node, given):
        biases = [name for name in node.input[2:] if name]
        if len(given) != 1 or not {node.input[1], *biases} <= set(self._weights) or self._axes[given[0]] != 1:
            return "other"
        kernel, groups = self._weights[node.input[1]], _attribute(node, "group") or 1
        if kernel.size > LARGEST or self._uses[node.input[1]] > 1:
            return "other"
        if groups == 1:
            return "filter"
        channels = self._channels(given[0])
        return "each" if groups == channels == self._channels(node.output[0]) else "other"

    def _weights_of(self, node):
        kernel = self._weights[node.input[1]]
        return lambda: share_of_weights(kernel if node.op_type == "Conv" else np.moveaxis(kernel, 0, 1))

    def _pads_with_nothing(self, node):
        mode = _attribute(node, "mode")
        if mode not in (None, b"constant") or len(node.input) < 3 or not node.input[2]:
            return True
        return node.input[2] in self._small and np.all(np.abs(self._small[node.input[2]]) < _NOTHING)

    def _channels(self, name):
        return self._shapes[name][self._axes[name]]

    def reach(self, ranges):
        """{name: [channels]}; without what only a ReLU takes, since the two are rounded once."""
        relus = {node.input[0] for node in self._nodes if node.op_type == "Relu"}
        return {
            name: np.maximum(*map(np.abs, limits[:2]))
            for name, limits in ranges.items()
            if name not in relus or self._uses[name] > 1
        }


def _scale(node, kind, weights, taken, given):
    if (taken == 1).all() and (given == 1).all():
        return
    kernel = weights[node.input[1]]
    if kind == "each":
        rows, columns = given / taken, np.ones(1, np.float32)
    else:
        rows, columns = (given, 1 / taken) if node.op_type == "Conv" else (1 / taken, given)
    apart = [1] * (kernel.ndim - 2)
    weights[node.input[1]] = kernel * rows.reshape(-1, 1, *apart) * columns.reshape(1, -1, *apart)
    if len(node.input) > 2 and node.input[2]:
        bias = f"{node.input[2]}_of_{node.output[0]}"  # others may add the same
        weights[bias] = weights[node.input[2]] * given
        node.input[2] = bias


def _attribute(node, name):
    onnx = need("onnx", "onnx")
    return next((onnx.helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name), None)


def _shapes(proto):
    known = (*proto.graph.input, *proto.graph.value_info, *proto.graph.output)
    return {entry.name: [dim.dim_value for dim in entry.type.tensor_type.shape.dim] for entry in known}
