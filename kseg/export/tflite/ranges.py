"""Calibration: the least, the greatest and the mean value of every activation over a set of images."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kseg.errors import CheckError, need
from kseg.export.tflite.flatbuffer import schema, write
from kseg.runtime.chatter import muted


@dataclass(frozen=True)
class Measured:
    """What calibration found.

    Attributes:
        ranges: {index of an activation: (least, greatest)}.
        means: {index: [channels]}, with which biases take back what rounding shifts (`kseg.export.bias`).
        trained: indices whose range was trained and is therefore taken as it is.
    """

    ranges: dict
    means: dict = field(default_factory=dict)
    trained: frozenset = frozenset()


def measure_ranges(network, images, folder):
    """Run a float Network on images.

    Its file is written once more with every activation as an output, so that XNNPACK runs it at full speed: asked to
    keep all tensors, the interpreter would do without.

    Args:
        network: Network in float32, one input [1, H, W, 3]; left as it is.
        images: iterable of float32 [1, H, W, 3].
        folder: where its file may lie for the time.
    Returns:
        {index of a tensor: (least, greatest, mean) of each channel, float32 [channels] three times} for every float32
        activation. The image always reaches from 0 to 255.
    Raises:
        CheckError: an activation is not finite.
    """
    (image,) = network.inputs.values()
    watched = []
    for operator in network.operators:
        watched += [i for i in operator.outputs if network.tensors[i].type == schema.TensorType.FLOAT32]
    ranges = {}
    with tempfile.TemporaryDirectory(dir=folder) as own:
        file = Path(own, "calibration.tflite")
        write(_watching(network, watched), file)
        interpreter = need("ai_edge_litert.interpreter", "tflite").Interpreter(str(file), num_threads=2)
        for pixels in images:
            for index, value in zip((image, *watched), (pixels, *_run(interpreter, pixels)), strict=True):
                values = value.reshape(-1, value.shape[-1] if value.ndim else 1)
                low, high, means = ranges.get(index, (np.inf, -np.inf, ()))
                low, high = np.minimum(low, values.min(0)), np.maximum(high, values.max(0))  # NaN stays
                ranges[index] = (low, high, (*means, values.mean(0)))
    ranges = {index: (low, high, np.mean(means, 0)) for index, (low, high, means) in ranges.items()}
    mean = ranges[image][2]
    ranges[image] = (np.zeros_like(mean), np.full_like(mean, 255), mean)
    for index, (low, high) in whole(ranges).items():
        if not np.isfinite([low, high]).all():
            raise CheckError(f"calibration: {network.tensors[index].name} computes {low} to {high}")
    return ranges


def whole(ranges):
    """{index: (least, greatest)} over all channels together, as numbers."""
    return {index: (float(low.min()), float(high.max())) for index, (low, high, _) in ranges.items()}


def _watching(network, watched):
    """A copy that gives every watched tensor, in this order."""
    copy = network.copy()
    copy.outputs = {f"watched_{place:04}": index for place, index in enumerate(watched)}
    return copy


def _run(interpreter, pixels):
    (source,) = interpreter.get_input_details()
    with muted():
        if tuple(source["shape"]) != pixels.shape or not getattr(interpreter, "_allocated", False):
            interpreter.resize_tensor_input(source["index"], pixels.shape)
            interpreter.allocate_tensors()
            interpreter._allocated = True
    interpreter.set_tensor(source["index"], np.asarray(pixels, np.float32))
    interpreter.invoke()
    for target in interpreter.get_output_details():
        yield interpreter.get_tensor(target["index"])
