"""The smallest or fastest file that loses no more than a given share of mean IoU."""

import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from kseg.errors import InputError
from kseg.export import tflite
from kseg.export.convert import export
from kseg.export.errors import ExportError
from kseg.export.scoring import open_like, score
from kseg.export.sensitivity import sensitivity
from kseg.lowering import lower
from kseg.runtime import Card, Predictor

TARGETS = ("size", "latency")
# How many of the most sensitive layers stay in float.
_KEPT_IN_FLOAT = (1, 2, 4, 8)
_ROUNDS = 15
# int16x8 has no kernels in XNNPACK: small networks take 40 times as long as in float32, large ones 400 times.
_TOO_SLOW = 100


class BudgetError(ExportError):
    """No file loses as little as was asked for."""


@dataclass(frozen=True)
class Candidate:
    """A file that was tried.

    Attributes:
        name: precision, and how many layers stay in float.
        precision: of `kseg.export.export`.
        float_layers: names.
        size_mb: 10^6 bytes.
        latency_ms: median of runs that were interleaved with those of the other candidates.
        mean_iou: of this very file, in 0..1.
        mean_iou_drop: that of Keras minus this.
        argmax_agreement: part of the pixels with Keras's class.
        best_in_kind: no other candidate is both smaller (or faster, by the target) and better.
    """

    name: str
    precision: str
    float_layers: tuple
    size_mb: float
    latency_ms: float
    mean_iou: float
    mean_iou_drop: float
    argmax_agreement: float
    best_in_kind: bool = False


@dataclass(frozen=True)
class Search:
    """What was tried.

    Attributes:
        mean_iou: of Keras, at the files' size.
        candidates: tuple of Candidate.
        costs: tuple of Cost, see `sensitivity`.
        skipped: names of files that run so much slower than float32 that scoring them would take for ever.
    """

    mean_iou: float
    candidates: tuple
    costs: tuple
    skipped: tuple = ()

    def best(self, max_drop, target):
        """The candidate within the budget that is smallest or fastest, or None."""
        inside = [one for one in self.candidates if one.mean_iou_drop <= max_drop]
        return min(inside, key=lambda one: _price(one, target), default=None)

    def to_dict(self):
        """Plain numbers, lists and dicts, ready for JSON."""
        return asdict(self)


def search(model, labels, size_px, calibration, pairs, target="size", progress=lambda items, title: items):
    """Try every precision, and int8 with the most sensitive layers left in float.

    Args:
        model: keras.Model, see `kseg.export.export`.
        labels: LabelSet.
        size_px: (height, width) of the files.
        calibration: Calibration; none of its images may be among `pairs`.
        pairs: list of (image uint8 [H, W, 3], label int [H, W]) to score with.
        target: "size" or "latency", by which `best_in_kind` is told.
        progress: called as progress(list, title), returns an iterable of it.
    Returns:
        Search.
    Raises:
        InputError: there are no labelled images, or one of them calibrates as well.
        ConversionError: the network cannot be expressed in TFLite's built-in operators.
    """
    if target not in TARGETS:
        raise InputError(f"`target` must be one of {', '.join(TARGETS)}. Received: {target}")
    if not pairs:
        raise InputError("there are no labelled images to score the files with")
    for image, _ in pairs:
        calibration.refuse_shared(image)
    network = lower(model, size_px)
    card = _card(network, labels)
    keras_score = score(Predictor(card, lambda image: np.asarray(network(image[None]))[0]), pairs)
    floats, _, _ = tflite.convert(network)
    with tempfile.TemporaryDirectory(prefix="kseg-") as folder:
        folder = Path(folder)
        ranges = tflite.measure_ranges(floats, calibration.at_size(size_px), folder)
        costs = sensitivity(
            floats, ranges, card, pairs, keras_score, folder, lambda layers: progress(layers, "sensitivity")
        )
        tried, skipped = [], []
        for name, precision, kept in progress(_plans(costs), "candidates"):
            file = folder / f"{name}.tflite"
            tflite.finish(
                floats.copy(), file, precision, ranges=ranges, input_dtype=_pixels(precision), float_layers=kept
            )
            predictor = open_like(file, _with_pixels(card, precision), precision)
            if tried and _seconds(predictor, size_px) > _TOO_SLOW * _seconds(tried[0][-1], size_px):
                skipped.append(name)
                continue
            tried.append((name, precision, kept, file.stat().st_size, score(predictor, pairs, keras_score), predictor))
        latencies = _latencies([entry[-1] for entry in tried], size_px)
    candidates = [
        Candidate(
            name=name,
            precision=precision,
            float_layers=tuple(kept),
            size_mb=size / 1e6,
            latency_ms=latency,
            mean_iou=found.mean_iou,
            mean_iou_drop=keras_score.mean_iou - found.mean_iou,
            argmax_agreement=found.argmax_agreement,
        )
        for (name, precision, kept, size, found, _), latency in zip(tried, latencies, strict=True)
    ]
    return Search(keras_score.mean_iou, tuple(_mark_best(candidates, target)), tuple(costs), tuple(skipped))


def export_best(model, labels, found, path, *, max_drop, target, size_px, calibration, pairs, data=""):
    """Write the best candidate within the budget with its card, as `kseg.export.export` does.

    Raises:
        BudgetError: there is none; the message names the one that loses least.
    """
    best = found.best(max_drop, target)
    if best is None:
        least = min(found.candidates, key=lambda one: one.mean_iou_drop)
        raise BudgetError(
            f"no file loses at most {max_drop} of mean IoU {found.mean_iou:.4f}: the best, {least.name}, loses "
            f"{least.mean_iou_drop:.4f} at {least.size_mb:.2f} MB. Allow more (--max-miou-drop), give more images to "
            f"calibrate with, or fine-tune for 8 bits (kseg.lowering.quantization_aware)"
        )
    return best, export(
        model,
        labels,
        path,
        format="tflite",
        precision=best.precision,
        size_px=size_px,
        calibration=calibration,
        verification=pairs,
        verification_data=data,
        float_layers=best.float_layers,
    )


def _plans(costs):
    """[(name, precision, layers kept in float)]."""
    plans = [(precision, precision, ()) for precision in ("float32", "float16", "dynamic", "int8")]
    for kept in _KEPT_IN_FLOAT:
        if kept < len(costs):
            plans.append((f"int8_{kept}_in_float", "int8", tuple(cost.layer for cost in costs[:kept])))
    return [*plans, ("int16x8", "int16x8", ())]


def _pixels(precision):
    return "uint8" if precision == "int8" else "float32"


def _card(network, labels):
    """A card for files on the way: of the network itself, without a file."""
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


def _with_pixels(card, precision):
    return replace(card, input={**card.input, "dtype": _pixels(precision)})


def _seconds(predictor, size_px):
    """How long one image takes, after one to warm up."""
    image = np.zeros((*size_px, 3), np.float32)
    for _ in range(2):
        start = time.perf_counter()
        predictor.at_size(image)
        seconds = time.perf_counter() - start
    return seconds


def _latencies(predictors, size_px):
    """Median milliseconds of each, taken in turns so that their ratio holds on a busy machine."""
    image = np.random.default_rng(0).uniform(0, 255, (*size_px, 3)).astype(np.float32)
    times = np.zeros((_ROUNDS + 1, len(predictors)))
    for round_ in range(_ROUNDS + 1):
        for place, predictor in enumerate(predictors):
            start = time.perf_counter()
            predictor.at_size(image)
            times[round_, place] = time.perf_counter() - start
    return [float(value) for value in 1000 * np.median(times[1:], axis=0)]  # the first round warms up


def _price(candidate, target):
    return candidate.size_mb if target == "size" else candidate.latency_ms


def _mark_best(candidates, target):
    for one in candidates:
        beaten = any(
            _price(other, target) <= _price(one, target)
            and other.mean_iou >= one.mean_iou
            and (_price(other, target), -other.mean_iou) != (_price(one, target), -one.mean_iou)
            for other in candidates
        )
        yield replace(one, best_in_kind=not beaten)
