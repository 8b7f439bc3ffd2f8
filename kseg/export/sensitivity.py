"""Which layers bear 8 bits badly: each one alone in 8 bits, and what that costs."""

from dataclasses import dataclass

from kseg.export import tflite
from kseg.export.scoring import open_like, score


@dataclass(frozen=True)
class Cost:
    """What a layer alone in 8 bits costs.

    Attributes:
        layer: its name, as `float_layers` takes it.
        mean_iou_drop: mean IoU of the float network minus that with this layer in 8 bits; below 0 it got better.
        relative_rms_error: root mean square of the change of the scores over that of the scores.
    """

    layer: str
    mean_iou_drop: float
    relative_rms_error: float


def sensitivity(network, ranges, card, pairs, reference, folder, progress=iter):
    """Measure every layer of a float Network that has a filter.

    Args:
        network: kseg.export.tflite Network in float32; left as it is.
        ranges: from `measure_ranges`.
        card: Card of the network's float32 file.
        pairs: list of (image uint8 [H, W, 3], label int [H, W]) that had no part in calibration.
        reference: Score of the float32 file on `pairs`.
        folder: pathlib.Path where a file may lie for the time.
        progress: wraps the list of layers that is gone through.
    Returns:
        list of Cost, the dearest first.
    """
    names = tflite.layer_names(network)
    file, costs = folder / "one_layer.tflite", []
    for layer in progress(tflite.layers_with_filters(network)):
        others = [name for name in names if name != layer]
        tflite.finish(network.copy(), file, "int8", ranges=ranges, input_dtype="float32", float_layers=others)
        found = score(open_like(file, card), pairs, reference)
        costs.append(Cost(layer, reference.mean_iou - found.mean_iou, found.relative_rms_error))
    # By the change of the scores where the mean IoU says nothing: a thousandth is within the noise of so few images.
    return sorted(costs, key=lambda cost: (-max(0.0, round(cost.mean_iou_drop, 3)), -cost.relative_rms_error))
