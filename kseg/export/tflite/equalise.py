"""Channels of like size (see `kseg.export.equalise`) in a float Network, before it is quantised."""

import numpy as np

from kseg.export.equalise import LARGEST, Node, factors, share_of_weights
from kseg.export.tflite.flatbuffer import schema
from kseg.export.tflite.scales import CHANNEL_AXIS, POOLS, activations, is_float
from kseg.export.tflite.structure import FILTERS

_PASS = {
    *POOLS,
    *("RELU", "LEAKY_RELU", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "PAD", "MIRROR_PAD", "MEAN", "RESHAPE"),
    *("SQUEEZE", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND"),
}
_POSITIVE = (schema.ActivationFunctionType.NONE, schema.ActivationFunctionType.RELU)


def equalise(network, ranges):
    """Multiply the channels of a float Network's activations by factors that its weights undo; changed in place.

    Args:
        network: Network in float32; it computes the same afterwards, up to rounding.
        ranges: {index of an activation: (least, greatest, mean) of each channel, arrays [channels]}.
    Returns:
        The `ranges` of the changed network.
    """
    nodes = [_node(network, operator) for operator in network.operators]
    keys = {*network.inputs.values(), *(key for node in nodes for key in (*node.given, *node.made))}
    reach = {index: np.maximum(*map(np.abs, limits[:2])) for index, limits in ranges.items()}
    held = (*network.inputs.values(), *network.outputs.values())
    found = factors(nodes, {key: _channels(network, key) for key in keys}, held, reach)
    for operator, node in zip(network.operators, nodes, strict=True):
        if node.kind in ("filter", "each"):
            _scale(network, operator, found[node.given[0]], found[node.made[0]])
    return {index: tuple(limit * found[index] for limit in limits) for index, limits in ranges.items()}


def _channels(network, index):
    shape = network.tensors[index].shape
    return int(shape[-1]) if len(shape) else 1


def _node(network, operator):
    given, made = tuple(activations(network, operator)), tuple(operator.outputs)
    fits = getattr(operator.options, "fusedActivationFunction", _POSITIVE[0]) in _POSITIVE
    kind, weights = _kind(network, operator, given) if given and is_float(network, made[0]) else "other", None
    if kind == "filter":

        def weights():
            array = network.constants[operator.inputs[FILTERS[operator.name][0]]]
            return share_of_weights(np.moveaxis(array, -1, 1))

    if kind in ("pass", "join", "sum") and not fits:
        kind = "other"
    return Node(kind, given, made, weights, free=fits)


def _kind(network, operator, given):
    shapes = [[*network.tensors[index].shape] for index in (*given, operator.outputs[0])]
    if operator.name in FILTERS:
        if not _takes_factors(network, operator, given):
            return "other"
        return "each" if operator.name == "DEPTHWISE_CONV_2D" else "filter"
    alone = len(given) == len([index for index in operator.inputs if is_float(network, index)])
    if not alone or not all(shapes):
        return "other"
    if operator.name == "CONCATENATION":
        return "join" if operator.options.axis in (-1, len(shapes[-1]) - 1) else "other"
    if operator.name in _PASS:
        return "pass" if shapes[0][-1] == shapes[-1][-1] else "other"
    if operator.name in ("ADD", "SUB") and len(given) == 2:
        return "sum"
    return "other"


def _takes_factors(network, operator, given):
    """Whether the channels that a filter takes, and those that it gives, can be scaled in it."""
    index = operator.inputs[FILTERS[operator.name][0]]
    if index not in network.constants or len(given) != 1:
        return False
    weights = network.constants[index]
    return (
        weights.shape[-1] == _channels(network, given[0]) and weights.size <= LARGEST and len(network.users(index)) == 1
    )


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
