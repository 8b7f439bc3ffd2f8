"""Which layers bear 8 bits badly: each one alone in 8 bits, and what that costs."""

from dataclasses import dataclass

from kseg.export import tflite
from kseg.export.scoring import score


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


def sensitivity(maker, pairs, reference, progress=iter):
    """Measure every layer of a network that has a filter.

    Args:
        maker: kseg.export.scoring.Maker of the network.
        pairs: list of (image uint8 [H, W, 3], label int [H, W]) that had no part in calibration.
        reference: Score of the float network on `pairs`.
        progress: wraps the list of layers that is gone through.
    Returns:
        list of Cost, the dearest first.
    """
    network, costs = maker.int8_source, []
    names = tflite.layer_names(network)
    for layer in progress(tflite.layers_with_filters(network)):
        others = [name for name in names if name != layer]
        predictor, _ = maker.make("one_layer", "int8", others, input_dtype="float32")
        found = score(predictor, pairs, reference)
        costs.append(Cost(layer, reference.mean_iou - found.mean_iou, found.relative_rms_error))
    # By the change of the scores where the mean IoU says nothing: a thousandth is within the noise of so few images.
    return sorted(costs, key=lambda cost: (-max(0.0, round(cost.mean_iou_drop, 3)), -cost.relative_rms_error))


def table(costs):
    """(headings, rows) of text, a row for each layer, the dearest first."""
    rows = [(cost.layer, f"{cost.mean_iou_drop:+.4f}", f"{cost.relative_rms_error:.4f}") for cost in costs]
    return ("layer alone in 8 bits", "lost", "change of the scores (rms)"), rows
