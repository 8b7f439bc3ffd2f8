"""The smallest or fastest file that loses no more than a given share of mean IoU."""

import math
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from kseg.errors import CheckError, InputError
from kseg.export.convert import check_converter, export
from kseg.export.errors import ExportError, ParityError
from kseg.export.scoring import Maker, check_pairs, score, score_keras
from kseg.export.sensitivity import sensitivity
from kseg.lowering import lower, lower_with_ranges

TARGETS = ("size", "latency")
# How many of the most sensitive layers stay in float.
_KEPT_IN_FLOAT = (1, 2, 4, 8)
_ROUNDS = 24
# int16x8 has no kernels in XNNPACK: small networks take 40 times as long as in float32, large ones 400 times. What is
# left out is slow by both measures, so that a hiccup of the machine leaves nothing out.
_TOO_SLOW, _TOO_SLOW_S = 100, 0.5


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
        candidates: tuple of Candidate; the float32 file is among them as the yardstick.
        costs: tuple of Cost, see `sensitivity`.
        skipped: {name: why} of files that were not scored to the end.
    """

    mean_iou: float
    candidates: tuple
    costs: tuple
    skipped: dict = field(default_factory=dict)

    def within(self, max_drop, target):
        """The quantised candidates that lose at most `max_drop`, the smallest or fastest first.

        Raises:
            InputError: the budget is not in 0..1, or the target is unknown.
        """
        check_budget(max_drop, target)
        inside = [one for one in self.candidates if one.precision != "float32" and one.mean_iou_drop <= max_drop]
        return sorted(inside, key=lambda one: (_price(one, target), one.mean_iou_drop))

    def best(self, max_drop, target):
        """The quantised candidate within the budget that is smallest or fastest, or None."""
        return next(iter(self.within(max_drop, target)), None)

    def table(self):
        """(headings, rows) of text, a row for each candidate."""
        headings = ("file", "MB", "ms", "mean IoU", "lost", "same class", "Pareto")
        return headings, [
            (
                one.name,
                f"{one.size_mb:.3f}",
                f"{one.latency_ms:.1f}",
                f"{one.mean_iou:.4f}",
                f"{one.mean_iou_drop:+.4f}",
                f"{one.argmax_agreement:.4f}",
                "*" if one.best_in_kind else "",
            )
            for one in self.candidates
        ]

    def to_dict(self):
        """Plain numbers, lists and dicts, ready for JSON."""
        return asdict(self)


def check_budget(max_drop, target):
    """Raise InputError unless `max_drop` is a part of 1 and `target` one of TARGETS."""
    if not 0 <= max_drop <= 1:  # NaN too
        raise InputError(f"the mean IoU that may be lost is a number from 0 to 1. Received: {max_drop}")
    if target not in TARGETS:
        raise InputError(f"`target` must be one of {', '.join(TARGETS)}. Received: {target}")


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
        InputError: there are no labelled images or pixels, one of the images calibrates as well, the labels are
            not those of the network, or there is one class.
        ConversionError: the network cannot be expressed in TFLite's built-in operators.
        CheckError: the network itself computes what is not a number.
    """
    check_budget(0, target)
    check_pairs(pairs, calibration)
    check_converter("tflite")
    lowered = lower_with_ranges(model, size_px)
    if lowered.model.output_shape[-1] != len(labels):
        raise InputError(f"{model.name}: has {lowered.model.output_shape[-1]} classes, the label set {len(labels)}")
    if len(labels) == 1:
        raise InputError(f"{model.name}: has one class, of which every mean IoU is 1")
    float_score = keras_score = score_keras(lowered.model, labels, pairs)
    if lowered.ranges:  # trained for 8 bits: Keras rounds, the float files do not
        keras_score = score_keras(lower(model, size_px, keep_rounding=True), labels, pairs)
    with tempfile.TemporaryDirectory(prefix="kseg-") as folder:
        maker = Maker(lowered, labels, calibration, Path(folder))
        costs = sensitivity(maker, pairs, float_score, lambda layers: progress(layers, "sensitivity"))
        candidates, skipped = _try(maker, progress(_plans(costs), "candidates"), pairs, keras_score)
    return Search(keras_score.mean_iou, tuple(_mark_best(candidates, target)), tuple(costs), skipped)


def export_best(
    model, labels, found, path, *, max_drop, target, size_px, calibration, pairs, data="", tell=lambda text: None
):
    """Write the best candidate within the budget with its card, as `kseg.export.export` does.

    Where a candidate's scores are further from Keras's than `kseg.export.TOLERANCES` allow, the next one is taken.

    Args:
        model, labels, size_px, calibration, pairs: as for `search`.
        found: Search.
        path: see `kseg.export.export`.
        max_drop: the most of mean IoU that may be lost, in 0..1.
        target: "size" or "latency".
        data: where the pairs come from, for the card.
        tell: called with a line of text for every candidate that was passed over.
    Returns:
        (Candidate, Card).
    Raises:
        BudgetError: there is none; the message names the one that loses least.
        InputError: as `export` raises it, or the budget is none.
    """
    refused = []
    for one in found.within(max_drop, target):
        try:
            return one, export(
                model,
                labels,
                path,
                format="tflite",
                precision=one.precision,
                size_px=size_px,
                calibration=calibration,
                verification=pairs,
                verification_data=data,
                float_layers=one.float_layers,
            )
        except ParityError as error:
            refused.append(f"{one.name}: within the budget, but refused: {error}")
            tell(refused[-1])
    raise BudgetError(_nothing_found(found, max_drop, refused))


def _nothing_found(found, max_drop, refused):
    quantised = [one for one in found.candidates if one.precision != "float32" and math.isfinite(one.mean_iou_drop)]
    if refused:
        return f"none of the {len(refused)} files within the budget of {max_drop} passed the check; {refused[-1]}"
    if not quantised:
        return "none of the quantised files could be scored"
    least = min(quantised, key=lambda one: one.mean_iou_drop)
    return (
        f"no quantised file loses at most {max_drop} of mean IoU {found.mean_iou:.4f}: the best, {least.name}, loses "
        f"{least.mean_iou_drop:.4g} at {least.size_mb:.3f} MB. Allow more (--max-miou-drop), give more images to "
        f"calibrate with, or fine-tune for 8 bits (tools/train.py --set quantization_aware=true)"
    )


def _try(maker, plans, pairs, reference):
    """(list of Candidate, {name: why} of those that were skipped)."""
    tried, skipped, size_px = [], {}, maker.card.size_px
    for name, precision, kept in plans:
        predictor, size = maker.make(name, precision, kept)
        if tried and _is_too_slow(predictor, tried[0][0], size_px):
            skipped[name] = f"takes more than {_TOO_SLOW} times as long as float32"
            continue
        try:
            found = score(predictor, pairs, reference)
        except CheckError as error:  # weights beyond the range of float16
            skipped[name] = str(error)
            continue
        tried.append((predictor, (name, precision, tuple(kept)), size, found))
    latencies = _latencies([predictor for predictor, *_ in tried], size_px)
    candidates = [
        Candidate(*plan, size / 1e6, latency, one.mean_iou, reference.mean_iou - one.mean_iou, one.argmax_agreement)
        for (_, plan, size, one), latency in zip(tried, latencies, strict=True)
    ]
    return candidates, skipped


def _plans(costs):
    """[(name, precision, layers kept in float)]."""
    plans = [(precision, precision, ()) for precision in ("float32", "float16", "dynamic", "int8")]
    for kept in _KEPT_IN_FLOAT:
        if kept < len(costs):
            plans.append((f"int8_{kept}_in_float", "int8", tuple(cost.layer for cost in costs[:kept])))
    return [*plans, ("int16x8", "int16x8", ())]


def _is_too_slow(predictor, yardstick, size_px):
    seconds = _seconds(predictor, size_px)
    return seconds > _TOO_SLOW_S and seconds > _TOO_SLOW * _seconds(yardstick, size_px)


def _seconds(predictor, size_px):
    """How long one image takes, after one to warm up."""
    image = np.zeros((*size_px, 3), np.float32)
    for _ in range(2):
        start = time.perf_counter()
        predictor.at_size(image)
        seconds = time.perf_counter() - start
    return seconds


def _latencies(predictors, size_px):
    """Milliseconds of each, taken in turns: the median of its share of a round, of which a busy machine makes all
    parts longer, times what a round takes. Every second round goes backwards, and each begins with another."""
    image = np.random.default_rng(0).uniform(0, 255, (*size_px, 3)).astype(np.float32)
    count = len(predictors)
    times = np.zeros((_ROUNDS + 1, count))
    for round_ in range(_ROUNDS + 1):
        order = [(place + round_ // 2) % count for place in range(count)]
        for place in order[:: -1 if round_ % 2 else 1]:
            start = time.perf_counter()
            predictors[place].at_size(image)
            times[round_, place] = time.perf_counter() - start
    rounds = times[1:].sum(axis=1, keepdims=True)  # the first warms up
    return [float(value) for value in 1000 * np.median(rounds) * np.median(times[1:] / rounds, axis=0)]


def _price(candidate, target):
    return candidate.size_mb if target == "size" else candidate.latency_ms


def _mark_best(candidates, target):
    for one in candidates:
        beaten = not math.isfinite(one.mean_iou) or any(
            _price(other, target) <= _price(one, target)
            and other.mean_iou >= one.mean_iou
            and (_price(other, target), other.mean_iou) != (_price(one, target), one.mean_iou)
            for other in candidates
        )
        yield replace(one, best_in_kind=not beaten)
