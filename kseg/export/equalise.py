"""Channels of like size before they share 8 bits.

All channels of an activation have one scale in an 8-bit file, so a channel that reaches to 0.5 beside one that reaches
to 50 is left with two or three numbers. What gives a channel can give it multiplied by t instead, if what takes it
divides its weights by t: a convolution, a ReLU, a pooling and an enlargement let factors above 0 through (Nagel et al.
2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.1). The factor that leaves
activations and weights equally coarse is the square root of the weights' size over the activations' (Xiao et al. 2023,
"SmoothQuant", equation 4 with alpha 0.5).

Here the factors are found, from a graph as far as it matters for them; each format scales its own weights.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# Filters with more weights are left alone: changed, they would be in memory twice.
LARGEST = 2**24
# Channels, and weights, below this share of the largest count as if they had it. So what hardly shows in the images for
# calibration, a rare class perhaps, has room to grow: to a quarter of the largest, where a thousandth would leave 3 %.
# A U-Net on the nuclei (rms of the error 0.073 without factors) had 0.035 with it, and 0.037 with a thousandth.
_LEAST = 1 / 16


@dataclass(frozen=True)
class Node:
    """An operator. Activations are known by any keys.

    Attributes:
        kind: "filter": takes one activation and gives another, whose channels its weights can scale; "each": so does
            a depthwise one, each channel alone; "pass": gives the channels that it takes; "join": those of one part
            behind those of the other; "sum": those of two activations, which it takes alike; "other".
        given, made: keys of the activations that it takes and gives.
        weights: of a "filter": function that gives [channels taken], see `share_of_weights`.
        free: whether a filter's result may be scaled: not if it is cut off at a number.
    """

    kind: str
    given: tuple
    made: tuple
    weights: Callable | None = None
    free: bool = True


def share_of_weights(weights):
    """float [taken]: of weights [given, taken, ...] the largest that each taken channel has, as a share of the largest
    that the same given channel has."""
    largest = np.abs(weights).reshape(*weights.shape[:2], -1).max(2)
    most = largest.max(1, keepdims=True)
    return (largest / np.where(most > 0, most, 1)).max(0)


def factors(nodes, channels, held, reach):
    """What to multiply each channel of each activation by.

    Args:
        nodes: list of Node in an order in which they can be run.
        channels: {key of an activation: number of its channels}.
        held: keys of those that must stay as they are: the graph's inputs and outputs.
        reach: {key: float [channels], the greatest absolute value that each channel takes}; others do not count.
    Returns:
        {key: float32 [channels]}; 1 where nothing may be changed.
    """
    groups = _Groups(channels)
    for node in nodes:
        groups.follow(node)
    for key in held:
        groups.hold(key)
    sizes, weights = {}, {}
    for key, values in reach.items():
        groups.collect(sizes, key, values)
    for node in nodes:
        if node.kind == "filter":
            groups.collect(weights, node.given[0], node.weights())
    return {
        key: np.concatenate([_factors(part.root(), sizes, weights) for part in groups.parts(key)]) for key in channels
    }


def _factors(group, sizes, weights):
    if not group.free or group not in sizes or not np.max(sizes[group]) > 0:
        return np.ones(group.size, np.float32)
    size = np.maximum(sizes[group], _LEAST * np.max(sizes[group]))
    share = np.maximum(weights[group], _LEAST) if group in weights else 1.0  # 1: each channel is filtered alone
    return np.sqrt(share / size).astype(np.float32)


class _Group:
    """Channels that need one factor each, through all the activations that they go through."""

    def __init__(self, size, free):
        self.size, self.free, self._same = size, free, None

    def root(self):
        return self if self._same is None else self._same.root()

    def join(self, other):
        one, other = self.root(), other.root()
        if one is not other:
            one.free &= other.free
            other._same = one


class _Groups:
    """Which channels of which activations belong together."""

    def __init__(self, channels):
        self._channels = channels
        self._parts = {}  # key of an activation -> list of _Group, along its channels

    def parts(self, key):
        # What no node gives is an input.
        return self._parts.setdefault(key, [_Group(self._channels[key], free=False)])

    def hold(self, key):
        for part in self.parts(key):
            part.root().free = False

    def follow(self, node):
        parts = None
        if node.kind in ("filter", "each"):
            self.parts(node.given[0])
            parts = [_Group(self._channels[node.made[0]], node.free)]
        elif node.kind == "pass":
            parts = self.parts(node.given[0])
        elif node.kind == "join":
            parts = [part for key in node.given for part in self.parts(key)]
        elif node.kind == "sum":
            parts = self._joined(*map(self.parts, node.given))
        if parts is not None:
            self._parts[node.made[0]] = parts
            return
        for key in node.given:
            self.hold(key)
        self._parts |= {key: [_Group(self._channels[key], free=False)] for key in node.made}

    @staticmethod
    def _joined(one, other):
        if [part.size for part in one] != [part.size for part in other]:
            return None
        for first, second in zip(one, other, strict=True):
            first.join(second)
        return one

    def collect(self, largest, key, values):
        """Note the greatest of `values` [channels] for the groups of an activation."""
        parts = self.parts(key)
        ends = np.cumsum([part.size for part in parts])
        for part, of_part in zip(parts, np.split(values, ends[:-1]), strict=True):
            root = part.root()
            largest[root] = np.maximum(largest.get(root, 0), of_part)
