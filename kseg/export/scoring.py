"""Files on the way to the one that is kept: made, and scored on labelled images."""

from dataclasses import dataclass, replace

import numpy as np

from kseg.data import spread
from kseg.errors import CheckError, InputError
from kseg.export import tflite
from kseg.export.calibration import digest
from kseg.export.parity import Comparison
from kseg.metrics import confusion_matrix, scores
from kseg.runtime import Card, Predictor
from kseg.runtime.resize import resize, resized_argmax
from kseg.runtime.tflite import open_tflite

_THREADS = 2


@dataclass(frozen=True)
class Score:
    """How good a predictor is on a set of images.

    Attributes:
        mean_iou: in 0..1.
        logits: list of float32 [H, W, classes], one an image, at the predictor's size; empty where the score was taken
            against a reference, because those of many files do not fit into memory together.
        relative_rms_error: root mean square of the change of the logits over that of the reference's; 0 without one.
        argmax_agreement: part of the pixels with the reference's class; 1 without one.
    """

    mean_iou: float
    logits: list
    relative_rms_error: float = 0.0
    argmax_agreement: float = 1.0


def score(predictor, pairs, against=None):
    """Score a Predictor on labelled images.

    Args:
        predictor: kseg.runtime.Predictor of a network that gives scores.
        pairs: list of (image uint8 [H, W, 3], label int [H, W]).
        against: the Score of a reference on the same images, or None.
    Raises:
        InputError: not a single pixel has a label.
        CheckError: a score is not a number.
    """
    labels = predictor.labels
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    logits, comparison = [], Comparison()
    for place, (image, label) in enumerate(pairs):
        found = predictor.at_size(resize(image, predictor.size_px or image.shape[:2]))
        if not np.isfinite(found).all():
            raise CheckError(f"{predictor.card.file}: computes scores that are not numbers")
        confusion += confusion_matrix(label, resized_argmax(found, label.shape), len(labels), labels.ignore)
        comparison.add(against.logits[place] if against else found, found)
        if not against:
            logits.append(found)
    if not confusion.any():
        raise InputError("no pixel of the images to score with has a label")
    mean_iou = float(scores(confusion)["mean_iou"])
    return Score(mean_iou, logits, comparison.relative_rms_error, comparison.argmax_agreement)


def score_keras(network, labels, pairs):
    """Score a keras.Model that was lowered, see `score`."""
    return score(Predictor(card_of(network, labels), lambda image: np.asarray(network(image[None]))[0]), pairs)


def card_of(network, labels):
    """A card for files on the way: of a lowered network, without a file."""
    return Card(
        file=network.name,
        sha256="",
        network=network.name,
        labels=labels,
        input={"shape": [*network.input_shape], "dtype": "float32", "range": [0, 255]},
        output={"kind": "logits", "shape": [*network.output_shape]},
        precision="float32",
        versions={},
    )


class Maker:
    """Makes the files that `kseg.export.export` makes, but for their metadata, from one conversion.

    Args:
        lowered: kseg.lowering.Lowered, at the files' size.
        labels: LabelSet.
        calibration: Calibration.
        folder: pathlib.Path where the files lie for the time.
    Attributes:
        card: Card of the float32 file.
        int8_source: kseg.export.tflite Network in float32, from which int8 files are made; left as it is.
    """

    def __init__(self, lowered, labels, calibration, folder):
        self.card = card_of(lowered.model, labels)
        self._calibration, self._folder = calibration, folder
        self._plain = self._convert(lowered.model, (), like_channels=False)
        # Ranges that were trained, and channels of like size, are for int8 alone.
        self._int8 = self._convert(lowered.model, lowered.ranges, like_channels=True)
        self.int8_source = self._int8[0]

    def make(self, name, precision, float_layers=(), input_dtype=None):
        """Write a file and open it.

        Args:
            name: of the file, without its suffix; one that is there is replaced.
            precision, float_layers, input_dtype: as for `kseg.export.export`.
        Returns:
            (Predictor, number of bytes).
        """
        input_dtype = input_dtype or ("uint8" if precision == "int8" else "float32")
        source, measured = self._int8 if precision == "int8" else self._plain
        file = self._folder / f"{name}.tflite"
        tflite.finish(source.copy(), file, precision, measured, input_dtype=input_dtype, float_layers=float_layers)
        card = replace(self.card, file=file.name, precision=precision, input=self.card.input | {"dtype": input_dtype})
        return Predictor(card, open_tflite(file, card, _THREADS)), file.stat().st_size

    def _convert(self, network, trained_ranges, like_channels):
        """(float Network, what was Measured of it)."""
        source, _, trained = tflite.convert(network, "logits", trained_ranges)
        images = self._calibration.at_size(self.card.size_px)
        return source, tflite.calibrate(source, images, self._folder, trained, like_channels=like_channels)


def check_pairs(pairs, calibration):
    """Raise InputError unless there are pairs, all of them have labels, and none of their images calibrates."""
    if not pairs:
        raise InputError("there are no labelled images to score the files with")
    if any(label is None for _, label in pairs):
        raise InputError("an image to score the files with has no label")
    for image, _ in pairs:
        calibration.refuse_shared(image)


def pairs_to_score(source, calibration, most):
    """At most `most` pairs of a data source, spread over it, without the images that calibrate.

    Args:
        source: of kseg.data.
        calibration: Calibration.
        most: at least 1.
    Returns:
        list of (image uint8 [H, W, 3], label int [H, W]).
    Raises:
        InputError: every image of the source calibrates.
    """
    used = set(map(digest, calibration.images))
    pairs = [pair for pair in spread(source, most + len(used)) if digest(pair[0]) not in used]
    if not pairs:
        raise InputError(
            "every labelled image calibrates, and none is left to score the files with: give another split, or "
            "calibrate with fewer images (--images)"
        )
    count = min(most, len(pairs))
    return [pairs[place * len(pairs) // count] for place in range(count)]
