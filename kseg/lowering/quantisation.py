"""Fake quantisation put into a trained network, and taken out of it again for a file that quantises in earnest."""

import keras
import numpy as np

from kseg.layers import QUANTIZED, CropLike, DoubleSize, FakeQuantize, PadToStride, Preprocess
from kseg.lowering.graph import Step, Value, build, float32_config, read
from kseg.lowering.passes import fold_batch_normalization, is_bilinear

# They pick, move or interpolate what came in with its own scale, or are no operator of the file at all.
_SAME_SCALE = (
    *(keras.layers.MaxPooling2D, keras.layers.AveragePooling2D, keras.layers.UpSampling2D, keras.layers.ZeroPadding2D),
    *(keras.layers.Cropping2D, keras.layers.Dropout, keras.layers.SpatialDropout2D, CropLike, DoubleSize, PadToStride),
    *(Preprocess, keras.layers.Rescaling, keras.layers.Softmax),
)
_ACTIVATIONS = (keras.layers.Activation, keras.layers.ReLU)
_FUSED = ("relu", "relu6", "linear")


def quantization_aware(model):
    """A copy of a trained network that computes as its 8-bit file will, to be fine-tuned with `model.fit`.

    Batch normalisation is folded first; kernels are rounded with one scale a channel, and activations wherever the
    file will round them: after convolutions with their activation, additions and concatenations, never after an
    upsampling. Fine-tune with a tenth of the learning rate; the ranges follow the activations while it trains.

    Args:
        model: functional or sequential keras.Model with one input and one output; it is left as it is.
    Returns:
        keras.Model with float32 weights of its own, for images of the same sizes.
    """
    graph = read(model)
    fold_batch_normalization(graph)
    for step in list(graph.steps):
        if type(step.operation) in QUANTIZED and not (step.is_a(keras.layers.Conv2DTranspose) and is_bilinear(step)):
            _quantise_kernel(step)
    for step in list(graph.steps):
        if _is_rounded(graph, step):
            _round_after(graph, step)
    network, _ = build(graph, model.inputs[0].shape, share=False)
    return network


def _quantise_kernel(step):
    layer, weights = step.operation, step.arrays()
    step.replace(QUANTIZED[type(layer)].from_config(float32_config(layer.get_config())), weights)


def _is_rounded(graph, step):
    """Whether the file rounds what this step gives."""
    if step.is_a(*_SAME_SCALE) or len(step.outputs) != 1 or len(step.output.shape) != 4:
        return False
    if step.is_a(keras.layers.Conv2DTranspose) or (step.is_a(*_ACTIVATIONS) and _is_linear(step)):
        return False
    follower = graph.only_user(step.output)
    # A ReLU right behind is part of the operator: what counts is what comes out of that.
    fused = follower is not None and follower.is_a(*_ACTIVATIONS) and not _is_linear(follower)
    return not (fused and _is_fusable(follower))


def _is_linear(step):
    return getattr(step.operation, "activation", None) is keras.activations.linear


def _is_fusable(step):
    activation = getattr(step.operation, "activation", None)
    return step.is_a(keras.layers.ReLU) or getattr(activation, "__name__", "") in _FUSED


def _round_after(graph, step):
    rounded = Value(step.output.shape)
    graph.redirect(step.output, rounded)
    layer = FakeQuantize(name=f"{step.name}_rounded")
    graph.steps.insert(
        graph.steps.index(step) + 1, Step(layer, (step.output,), {}, [rounded], [np.float32(0), np.float32(0)])
    )


def take_ranges(graph):
    """Take the fake quantisation out of a Graph.

    Returns:
        {Value that was rounded: (low, high)}, for those that have been trained.
    """
    ranges = {}
    for step in list(graph.steps):
        if step.is_a(FakeQuantize):
            low, high = (float(array) for array in step.arrays())
            source = step.inputs[0]
            graph.remove(step)
            if high > low:
                ranges[source] = (low, high)
    plain = {quantised: layer for layer, quantised in QUANTIZED.items()}
    for step in graph.steps:
        if type(step.operation) in plain:
            weights = step.arrays()
            step.replace(plain[type(step.operation)].from_config(step.operation.get_config()), weights)
    return ranges


def is_quantization_aware(model):
    """Whether a model comes from `quantization_aware`."""
    return any(type(layer) is FakeQuantize for layer in model._flatten_layers())
