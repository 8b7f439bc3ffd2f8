"""Files that are not finished yet, scored on labelled images."""

from dataclasses import dataclass, replace

import numpy as np

from kseg.errors import CheckError
from kseg.export.parity import Comparison
from kseg.metrics import confusion_matrix, scores
from kseg.runtime import Predictor
from kseg.runtime.resize import resize, resized_argmax
from kseg.runtime.tflite import open_tflite


@dataclass(frozen=True)
class Score:
    """How good a predictor is on a set of images.

    Attributes:
        mean_iou: in 0..1.
        logits: list of float32 [H, W, classes], one an image, at the predictor's size.
        relative_rms_error: root mean square of the change of the logits over that of the reference's; 0 without one.
        argmax_agreement: part of the pixels with the reference's class; 1 without one.
    """

    mean_iou: float
    logits: list
    relative_rms_error: float = 0.0
    argmax_agreement: float = 1.0


def open_like(file, card, precision="int8", threads=2):
    """The Predictor of a .tflite file without a card, which is like that of `card` but for its precision."""
    card = replace(card, file=file.name, precision=precision)
    return Predictor(card, open_tflite(file, card, threads))


def score(predictor, pairs, against=None):
    """Score a Predictor on labelled images.

    Args:
        predictor: kseg.runtime.Predictor of a network that gives scores.
        pairs: list of (image uint8 [H, W, 3], label int [H, W]).
        against: the Score of a reference on the same images, or None.
    Raises:
        CheckError: the mean IoU or the change is not a number.
    """
    labels = predictor.labels
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    logits, comparison = [], Comparison()
    for place, (image, label) in enumerate(pairs):
        logits.append(predictor.at_size(resize(image, predictor.size_px or image.shape[:2])))
        classes = resized_argmax(logits[-1], label.shape)
        confusion += confusion_matrix(label, classes, len(labels), labels.ignore)
        comparison.add(against.logits[place] if against else logits[-1], logits[-1])
    found = Score(
        float(scores(confusion)["mean_iou"]), logits, comparison.relative_rms_error, comparison.argmax_agreement
    )
    if not np.isfinite([found.mean_iou, found.relative_rms_error]).all():
        raise CheckError(f"{predictor.card.file}: its scores or its mean IoU are not numbers")
    return found
