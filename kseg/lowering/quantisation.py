"""Fake quantisation put into a trained network, and taken out of it again for a file that quantises in earnest."""

from collections import Counter

import keras
import numpy as np

from kseg.errors import InputError
from kseg.layers import (
    QUANTIZED,
    BilinearUpsampling,
    CropLike,
    FakeQuantize,
    PadToStride,
    QuantizedAdd,
    RoundedImage,
    RoundToStep,
    Subtract,
)
from kseg.lowering.graph import Step, Value, build, float32_config, read
from kseg.lowering.passes import TRAINING_ONLY, fold_batch_normalization, fold_preprocessing, is_bilinear

# They pick or move values, which keep their step; in prediction, some do nothing.
_MOVES = (
    *(keras.layers.MaxPooling2D, keras.layers.ZeroPadding2D, keras.layers.Cropping2D, CropLike, PadToStride),
    *TRAINING_ONLY,
)
# They become part of the operator before them.
_FUSED = ("linear", "relu", "relu6")
# In the file their results have a prescribed scale.
_LIMITS = {"softmax": (0.0, 255 / 256), "sigmoid": (0.0, 255 / 256), "tanh": (-1.0, 127 / 128)}


def quantization_aware(model):
    """A copy of a trained network that computes as its 8-bit file will, to be fine-tuned with `model.fit`.

    Preprocessing and batch normalisation are folded first; kernels are rounded with one scale a channel, and
    activations wherever the file will round them. Fine-tune with a tenth of the learning rate; the ranges follow the
    activations while it trains. In prediction it gives the numbers of its file of a fixed size: exactly through
    convolutions, sums, concatenations, max pooling and enlarging up to 8 times; enlarging 16 or 32 times and operations
    without a layer of their own here may round single values to the other side. Put layers of random changes before a
    `Rescaling`: behind it, they keep it from being folded, as it is in the file.

    Args:
        model: functional or sequential keras.Model with one input, RGB in 0..255, and one output; it is left as it is.
    Returns:
        keras.Model with float32 weights of its own, for images of the same sizes.
    Raises:
        InputError: the model is such a copy already, or calls a layer with weights several times.
    Reference: Jacob et al. 2018, section 3.
    """
    if is_quantization_aware(model):
        raise InputError(f"{model.name}: computes as its 8-bit file will already; go on training it as it is")
    graph = read(model)
    _refuse_shared(model, graph)
    kernels = {step: step.arrays()[0] for step in graph.steps if step.kind in QUANTIZED}
    fold_preprocessing(graph)
    units = {step: _power_of_two(kernel, step.arrays()[0]) for step, kernel in kernels.items()}
    fold_batch_normalization(graph)
    _Rounding(graph, units).run()
    network, _ = build(graph, model.inputs[0].shape, share=False)
    return network


def _refuse_shared(model, graph):
    """Each call would get ranges and weights of its own: another network than the one that was trained."""
    calls = Counter(step.operation for step in graph.steps if getattr(step.operation, "weights", None))
    for layer, count in calls.items():
        if count > 1:
            raise InputError(
                f"{model.name}: calls the layer {layer.name} {count} times; quantisation-aware training wants a layer "
                f"for each call"
            )


def _power_of_two(before, after):
    """By what a pass has shrunk a kernel, as a power of two, with which nothing is rounded."""
    before, after = np.abs(before).max(), np.abs(after).max()
    return float(2.0 ** np.round(np.log2(after / before))) if before and after else 1.0


class _Rounding:
    """Puts the rounding into a Graph; knows the Value that holds the step of each rounded Value."""

    def __init__(self, graph, units):
        self._graph, self._units, self._step_of = graph, units, {}

    def run(self):
        graph = self._graph
        self._round_image()
        for step in list(graph.steps):
            if not any(step is one for one in graph.steps):
                continue  # an activation that has become part of what it follows
            source = step.inputs[0] if step.inputs else None
            bilinear = step.is_a(keras.layers.Conv2DTranspose) and is_bilinear(step)
            if step.kind in QUANTIZED and not bilinear and step.operation.data_format == "channels_last":
                self._quantise_filter(step)
            elif step.is_a(keras.layers.Add) and self._is_rounded_sum(step):
                self._quantise_sum(step)
            elif step.is_a(RoundedImage) or len(step.outputs) != 1 or len(step.output.shape) != 4:
                continue
            elif step.is_a(*_MOVES) or _fused(step) == "linear" or _is_nearest(step):
                self._pass_on(step, source)
            elif bilinear or step.is_a(keras.layers.AveragePooling2D, keras.layers.UpSampling2D, BilinearUpsampling):
                self._pass_on(step, source)
                self._round_again(step)
            else:
                self._round_after(step)

    def _round_image(self):
        graph = self._graph
        rounded = Value(graph.image.shape)
        graph.redirect(graph.image, rounded)
        graph.steps.insert(0, Step(RoundedImage(name="rounded_image"), (graph.image,), {}, [rounded]))
        self._give_step(graph.steps[0])
        pixels = [rounded]
        for value in pixels:
            for step in graph.users(value):
                if step.is_a(Subtract):
                    step.replace(RoundedImage(step.operation.offset, name=step.name))
                    self._give_step(step)
                elif step.is_a(*TRAINING_ONLY):
                    pixels.append(step.output)

    def _give_step(self, step):
        """Let a step give the size of its result's steps as its second output."""
        step.outputs.append(Value(()))
        self._step_of[step.outputs[0]] = step.outputs[1]

    def _pass_on(self, step, source):
        if source in self._step_of:
            self._step_of[step.output] = self._step_of[source]

    def _insert_after(self, step, layer, args, weights=None):
        rounded = Value(step.output.shape)
        self._graph.redirect(step.output, rounded)
        added = Step(layer, (step.output, *args), {}, [rounded], weights)
        self._graph.steps.insert(self._graph.steps.index(step) + 1, added)
        return added

    def _round_after(self, step):
        follower = self._graph.only_user(step.output)
        if step.is_a(keras.layers.Add) and follower is not None and _fused(follower):
            return  # the file rounds behind the ReLU, which is part of the sum
        limits = _LIMITS.get(_activation(step))
        weights = [np.float32(limit) for limit in limits or (0, 0)]
        layer = FakeQuantize(limits=limits, name=f"{step.name}_rounded")
        self._give_step(self._insert_after(step, layer, (), weights))

    def _round_again(self, step):
        if step.output in self._step_of:
            size = self._step_of.pop(step.output)
            added = self._insert_after(step, RoundToStep(name=f"{step.name}_rounded"), (size,))
            self._step_of[added.output] = size

    def _is_rounded_sum(self, step):
        return len(step.inputs) == 2 and all(value in self._step_of for value in step.inputs)

    def _quantise_sum(self, step):
        values = step.inputs
        step.args, step.kwargs = (values, [self._step_of[value] for value in values]), {}
        step.replace(QuantizedAdd(name=step.name), [np.float32(0), np.float32(0)])
        self._give_step(step)

    def _quantise_filter(self, step):
        layer, weights, unit = step.operation, step.arrays(), self._units.get(step, 1.0)
        activation, follower = _activation(step), self._graph.only_user(step.output)
        if activation not in _FUSED:
            behind = keras.layers.Activation(layer.activation, name=f"{layer.name}_activation", dtype="float32")
            self._round_after(self._insert_after(step, behind, ()))
            activation = "linear"
        elif activation == "linear" and follower is not None and _fused(follower):
            activation = _fused(follower)
            self._graph.steps.remove(follower)
            self._graph.redirect(follower.output, step.output)
        config = float32_config(layer.get_config()) | {"activation": activation, "kernel_unit": unit}
        kernel, *bias = weights
        ranges = [np.float32(0), np.float32(0)]
        step.replace(QUANTIZED[step.kind].from_config(config), [kernel / np.float32(unit), *bias, *ranges])
        value = step.inputs[0]
        step.args, step.kwargs = (value,), {"step": self._step_of[value]} if value in self._step_of else {}
        self._give_step(step)


def _activation(step):
    """The name of the activation that a step applies, or ""."""
    if step.is_a(keras.layers.Softmax):
        return "softmax"
    return getattr(getattr(step.operation, "activation", None), "__name__", "")


def _fused(step):
    """Which of _FUSED an activation layer is, or None."""
    if step.is_a(keras.layers.ReLU):
        layer = step.operation
        plain = not layer.negative_slope and not layer.threshold
        return {None: "relu", 6.0: "relu6"}.get(layer.max_value) if plain else None
    return _activation(step) if step.is_a(keras.layers.Activation) and _activation(step) in _FUSED else None


def _is_nearest(step):
    return step.is_a(keras.layers.UpSampling2D) and step.operation.interpolation == "nearest"


def take_ranges(graph):
    """Take the fake quantisation out of a Graph.

    Returns:
        {Value that was rounded: (low, high)}, for those that have been trained.
    """
    ranges, plain = {}, {quantised: layer for layer, quantised in QUANTIZED.items()}
    for step in list(graph.steps):
        kind = type(step.operation)
        if kind is RoundToStep or kind is FakeQuantize:
            if kind is FakeQuantize and not step.operation.limits:
                _note_range(ranges, step.inputs[0], step.arrays())
            graph.steps.remove(step)
            graph.redirect(step.outputs[0], step.inputs[0])
            continue
        if kind is RoundedImage:
            _plain_image(graph, step)
        elif kind is QuantizedAdd:
            step.args = (step.args[0],)
            _note_range(ranges, step.outputs[0], step.arrays())
            step.replace(keras.layers.Add(name=step.name, dtype="float32"))
        elif kind in plain:
            *weights, low, high = step.arrays()
            _note_range(ranges, step.outputs[0], (low, high))
            config = step.operation.get_config()
            kernel = np.asarray(weights[0]) * np.float32(config.pop("kernel_unit"))
            del config["momentum"]
            step.args, step.kwargs = step.args[:1], {}
            step.replace(plain[kind].from_config(config), [kernel, *weights[1:]])
        else:
            continue
        del step.outputs[1:]  # the size of a step, for the next layer
    return ranges


def _note_range(ranges, value, limits):
    low, high = map(float, limits)
    if high > low:
        ranges[value] = (low, high)


def _plain_image(graph, step):
    if any(step.operation.offset):
        step.replace(Subtract(step.operation.offset, name=step.name))
    else:
        graph.steps.remove(step)
        graph.redirect(step.outputs[0], step.inputs[0])


def is_quantization_aware(model):
    """Whether a model comes from `quantization_aware`."""
    return any(isinstance(layer, RoundedImage) for layer in model._flatten_layers())
