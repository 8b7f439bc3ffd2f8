"""Weights from one network to another, layer by layer."""

from dataclasses import dataclass

import numpy as np
from keras import ops


@dataclass(frozen=True)
class Transplant:
    """What `transplant` did.

    Attributes:
        copied: names of the layers that were copied.
        skipped: name of each other layer with weights in the target -> why.
    """

    copied: tuple
    skipped: dict

    def __str__(self):
        kept = "; ".join(f"{name}: {why}" for name, why in self.skipped.items())
        return f"{len(self.copied)} layers copied" + (f", {len(self.skipped)} kept ({kept})" if kept else "")


def transplant(source, target):
    """Copy the weights of every layer that both models have under the same name and with the same shapes.

    So FCN-32s, FCN-16s and FCN-8s can be trained in stages (Long et al. 2015, section 4.2).

    Args:
        source, target: keras.Model; a model inside a model counts as one layer.
    Returns:
        Transplant.
    """
    available = {layer.name: layer for layer in source.layers if layer.weights}
    copied, skipped = [], {}
    for layer in target.layers:
        if not layer.weights:
            continue
        if layer.name not in available:
            skipped[layer.name] = "not in the source"
            continue
        weights = available[layer.name].weights
        shapes = [[tuple(weight.shape) for weight in part] for part in (weights, layer.weights)]
        if shapes[0] != shapes[1]:
            skipped[layer.name] = f"{shapes[0]} in the source, {shapes[1]} in the target"
            continue
        for theirs, ours in zip(weights, layer.weights, strict=True):
            ours.assign(copy_of(theirs))
        copied.append(layer.name)
    return Transplant(tuple(copied), skipped)


def copy_of(variable):
    """The value of a variable as a NumPy array of its own, to assign to another one.

    On JAX `assign` would let both variables hold one array, which training the one uses up.
    """
    return np.array(ops.convert_to_numpy(variable))
