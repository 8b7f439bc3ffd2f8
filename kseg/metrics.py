"""Scores of a segmentation, all from one confusion matrix over the whole set, never averaged batch by batch.

In NumPy for finished predictions: `confusion_matrix` and `scores`. In the graph, while a model trains or evaluates:
`ConfusionMatrix` (all numbers at once), `MeanIoU` and `PixelAccuracy`.

The rule for absent classes, everywhere: a class with no true pixel and no predicted pixel has no score (NaN) and is
left out of the means. A class with predicted but no true pixels has IoU and Dice 0, which counts in their means, and
no accuracy (0/0), so it is left out of the mean accuracy. Without any valid pixel every number is NaN.

What fails loudly: a label that is neither a class nor `ignore`, a prediction that is no class, and in the graph
scores that are not finite. The NumPy functions raise; a graph cannot, so there every score becomes NaN, and
`matrix()` raises.
"""

import keras
import numpy as np
from keras import ops

# A count is kept as low + BASE * high in two int32 words, since JAX has no int64 by default and a plain int32 wraps
# after some thousand images. 2**24 leaves room for a batch of 2**30 pixels, for the sum over the words of a hundred
# replicas, and for 2**55 pixels in all.
_BITS = 24
_BASE = 1 << _BITS


def confusion_matrix(labels, predictions, classes, ignore=None):
    """Count how often each class was predicted as which.

    Args:
        labels: integers of any shape, the truth; `ignore` marks unlabelled pixels.
        predictions: integers of the same shape, class indices; anything where the label is `ignore`.
        classes: number of classes.
        ignore: label of the pixels that do not count, outside 0..classes - 1, or None.
    Returns:
        int64 [classes, classes]: rows are the truth, columns the prediction.
    Raises:
        ValueError: the shapes differ, something is no integer, `ignore` is a class, a label is neither a class nor
            `ignore`, or a prediction that counts is no class.
    """
    _check_classes(classes, ignore)
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.shape != predictions.shape:
        raise ValueError(
            f"`labels` and `predictions` must have the same shape. Received: {labels.shape} and {predictions.shape}"
        )
    for name, values in (("labels", labels), ("predictions", predictions)):
        if values.dtype.kind not in "iu":
            raise ValueError(f"`{name}` must be integers. Received: {values.dtype}")
    if ignore is not None:
        counts = labels != ignore
        labels, predictions = labels[counts], predictions[counts]
    for name, values in (("labels", labels), ("predictions", predictions)):
        if values.size and (values.min() < 0 or values.max() >= classes):
            wrong = np.unique(values[(values < 0) | (values >= classes)])[:5].tolist()
            raise ValueError(f"`{name}` must be 0..{classes - 1}, or ignore={ignore} in the labels. Received: {wrong}")
    pairs = labels.astype(np.int64).ravel() * classes + predictions.astype(np.int64).ravel()
    return np.bincount(pairs, minlength=classes * classes).astype(np.int64).reshape(classes, classes)


def scores(confusion):
    """The usual numbers of a confusion matrix.

    With n_ij the pixels of class i predicted as j, t_i the true and p_i the predicted pixels of class i:
    pixel accuracy sum n_ii / sum t_i; accuracy n_ii / t_i; IoU n_ii / (t_i + p_i - n_ii); frequency weighted IoU
    sum(t_i IoU_i) / sum t_i; Dice 2 n_ii / (t_i + p_i).

    Args:
        confusion: numbers [classes, classes], rows truth, columns prediction.
    Returns:
        dict: "pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou", "mean_dice" are floats in
        [0, 1]; "iou", "dice", "accuracy" are float64 [classes]. NaN as said at the top of this module.
    Raises:
        ValueError: not a square matrix.
    Reference: Long et al. 2015, section 5 (the first four). Departs: the rule for absent classes, which the paper
    leaves open.
    """
    confusion = np.asarray(confusion, np.float64)
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"`confusion` must be a square matrix. Received: shape {confusion.shape}")
    right, true, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    iou = _ratio(right, true + predicted - right)
    dice = _ratio(2.0 * right, true + predicted)
    accuracy = _ratio(right, true)
    return {
        "pixel_accuracy": float(_ratio(right.sum(), true.sum())),
        "mean_accuracy": _mean(accuracy),
        "mean_iou": _mean(iou),
        "frequency_weighted_iou": float(_ratio((true * np.nan_to_num(iou)).sum(), true.sum())),
        "mean_dice": _mean(dice),
        "iou": iou,
        "dice": dice,
        "accuracy": accuracy,
    }


@keras.saving.register_keras_serializable("kseg")
class ConfusionMatrix(keras.metrics.Metric):
    """One confusion matrix over all batches, and the scores that follow from it.

    In `model.compile(metrics=[ConfusionMatrix(classes)])`, `fit` logs pixel_accuracy, mean_accuracy, mean_iou,
    frequency_weighted_iou and mean_dice (with `val_` for validation), so callbacks can watch "val_mean_iou". Counts
    are exact up to 2**55 pixels on every backend. Works in graphs, under jit and with unknown sizes.

    Args:
        classes: number of classes.
        ignore: label of the pixels that do not count, outside 0..classes - 1, or None.
        names: one name a class; then the result also holds "iou_<name>" for each. None leaves these out.
        name: the name of the metric (the logs show the names of the scores, so use it once for each model output).
    Raises:
        ValueError: `classes` is not positive, `ignore` is a class, or there is not one name for each class.
    Example:
        metric = ConfusionMatrix(21, ignore=255)
        metric.update_state(labels, logits)
        metric.result()["mean_iou"]
    """

    def __init__(self, classes, ignore=None, names=None, name="confusion"):
        super().__init__(name=name, dtype="float32")
        _check_classes(classes, ignore)
        if names is not None and len(names) != classes:
            raise ValueError(f"`names` must hold one name for each of {classes} classes. Received: {list(names)}")
        self.classes, self.ignore = int(classes), None if ignore is None else int(ignore)
        # Not `self.names = [...]`: Keras tracks lists and would serialize its own wrapper.
        self.names = None if names is None else tuple(names)
        # Low and high words; the last column counts pixels that are out of range.
        shape = (2, self.classes * self.classes + 1)
        self.counts = self.add_weight(shape=shape, initializer="zeros", dtype="int32", name="counts")

    def update_state(self, labels, predictions, sample_weight=None):
        """Count a batch.

        Args:
            labels: whole numbers [B, H, W] or [B, H, W, 1].
            predictions: float [B, H, W, classes], logits or probabilities: the largest wins, at a tie the first;
                or integers [B, H, W] or [B, H, W, 1], class indices.
            sample_weight: must be None.
        Raises:
            ValueError: the shapes do not fit, or `sample_weight` is given: the matrix counts whole pixels. Pass the
                metric as `metrics=`, which gets no weights, not as `weighted_metrics=`.
        """
        if sample_weight is not None:
            raise ValueError(
                f"`sample_weight` must be None: {type(self).__name__} counts whole pixels. Pass it as `metrics=`, "
                f"not `weighted_metrics=`. Received: shape {tuple(sample_weight.shape)}"
            )
        labels, predictions = ops.convert_to_tensor(labels), ops.convert_to_tensor(predictions)
        predictions = self._class_indices(_without_channel(labels), predictions)
        labels, whole = _to_int32(_without_channel(labels))
        valid = _within(labels, self.classes) & _within(predictions, self.classes) & whole
        outside = self.classes * self.classes
        pairs = ops.where(valid, labels * self.classes + predictions, outside)
        if self.ignore is not None:
            pairs = ops.where((labels == self.ignore) & whole, outside + 1, pairs)
        pairs = ops.reshape(pairs, (-1,))
        batch = ops.segment_sum(ops.ones_like(pairs), pairs, num_segments=outside + 2)[:-1]
        low = self.counts[0] + batch
        self.counts.assign(ops.stack([low % _BASE, self.counts[1] + low // _BASE]))

    def result(self):
        """dict of float32 scalars, see the class; all NaN before the first valid pixel, after a wrong label and
        after scores that are not finite."""
        values = self._scores()
        iou = values.pop("iou")
        if self.names is not None:
            values.update({f"iou_{name}": iou[index] for index, name in enumerate(self.names)})
        return values

    def matrix(self):
        """int64 NumPy [classes, classes]: the exact counts so far; rows are the truth, columns the prediction.

        Raises:
            ValueError: a label was neither a class nor `ignore`, or a prediction was no class (or not finite).
        """
        low, high = ops.convert_to_numpy(self.counts).astype(np.int64)
        total = low + high * _BASE
        if total[-1]:
            raise ValueError(
                f"`labels` and `predictions` must be 0..{self.classes - 1} (or ignore={self.ignore} in the labels). "
                f"Received: {total[-1]} pixels that are neither"
            )
        return total[:-1].reshape(self.classes, self.classes)

    def get_config(self):
        """The arguments of the constructor."""
        names = None if self.names is None else list(self.names)
        return {"classes": self.classes, "ignore": self.ignore, "names": names, "name": self.name}

    def _class_indices(self, labels, predictions):
        # int32 [B, H, W]
        by_class = len(predictions.shape) == 4 and "float" in keras.backend.standardize_dtype(predictions.dtype)
        if by_class and predictions.shape[-1] == self.classes:
            # The greatest of scores that are not finite would be a class like any other: -1 is none.
            finite = ops.all(ops.isfinite(predictions), axis=-1)
            indices = ops.where(finite, first_largest(predictions), -1)
        elif not by_class and "int" in keras.backend.standardize_dtype(predictions.dtype):
            indices = ops.cast(_without_channel(predictions), "int32")
        else:
            indices = None
        shape = () if indices is None else indices.shape
        same = len(labels.shape) == len(shape) == 3 and all(
            a is None or b is None or a == b for a, b in zip(labels.shape, shape, strict=True)
        )
        if not same:
            raise ValueError(
                f"`labels` must be [B, H, W] and `predictions` float [B, H, W, {self.classes}] or integers [B, H, W]. "
                f"Received: {tuple(labels.shape)} and {predictions.dtype} {tuple(predictions.shape)}"
            )
        return indices

    def _scores(self):
        # As `scores`, in float32 (exact counts, rounded to 7 digits once they are ratios).
        counts = ops.cast(self.counts[0], "float32") + ops.cast(self.counts[1], "float32") * float(_BASE)
        # The column of wrong pixels turns every score to NaN, so that they cannot pass in silence.
        flaw = ops.where(counts[-1] > 0, float("nan"), 0.0)
        confusion = ops.reshape(counts[:-1], (self.classes, self.classes)) + flaw
        right, true, predicted = ops.diagonal(confusion), ops.sum(confusion, 1), ops.sum(confusion, 0)
        union = true + predicted - right
        iou = _divide(right, union)
        return {
            "pixel_accuracy": _divide(ops.sum(right), ops.sum(true)),
            "mean_accuracy": _mean_where(_divide(right, true), true),
            "mean_iou": _mean_where(iou, union),
            "frequency_weighted_iou": _divide(ops.sum(ops.where(true == 0, 0.0, true * iou)), ops.sum(true)),
            "mean_dice": _mean_where(_divide(2.0 * right, true + predicted), union),
            "iou": iou,
        }


class _OneScore(ConfusionMatrix):
    """A confusion matrix whose result is one of its scores, `_key`: a scalar under the metric's own name."""

    _key = None

    def __init__(self, classes, ignore, name):
        super().__init__(classes, ignore, name=name)

    def result(self):
        """float32 scalar."""
        return self._scores()[self._key]

    def get_config(self):
        """The arguments of the constructor."""
        return {"classes": self.classes, "ignore": self.ignore, "name": self.name}


@keras.saving.register_keras_serializable("kseg")
class MeanIoU(_OneScore):
    """The mean IoU alone, over the whole set; arguments, rules and errors as in `ConfusionMatrix`."""

    _key = "mean_iou"

    def __init__(self, classes, ignore=None, name="mean_iou"):
        super().__init__(classes, ignore, name)


@keras.saving.register_keras_serializable("kseg")
class PixelAccuracy(_OneScore):
    """The pixel accuracy alone, over the whole set; arguments, rules and errors as in `ConfusionMatrix`."""

    _key = "pixel_accuracy"

    def __init__(self, classes, ignore=None, name="pixel_accuracy"):
        super().__init__(classes, ignore, name)


def _check_classes(classes, ignore):
    if classes < 1:
        raise ValueError(f"`classes` must be at least 1. Received: {classes}")
    if ignore is not None and 0 <= ignore < classes:
        raise ValueError(f"`ignore` must lie outside the {classes} classes. Received: {ignore}")


def _ratio(part, whole):
    # NumPy; 0/0 is NaN, without the warning
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(part, whole)


def _mean(values):
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _divide(part, whole):
    # In the graph; NaN where `whole` is 0 (or NaN)
    return ops.where(whole == 0, float("nan"), part / ops.where(whole == 0, 1.0, whole))


def _mean_where(values, pixels):
    # Mean of `values` over the classes with pixels != 0; NaN pixels make it NaN
    known = pixels != 0
    return _divide(ops.sum(ops.where(known, values, 0.0)), ops.sum(ops.cast(known, "float32")))


def _without_channel(labels):
    return ops.squeeze(labels, -1) if len(labels.shape) == 4 and labels.shape[-1] == 1 else labels


def _within(indices, classes):
    return (indices >= 0) & (indices < classes)


def _to_int32(labels):
    # (int32, bool: the conversion kept the value): 0.5, NaN or 2**32 must not be counted as class 0.
    dtype = keras.backend.standardize_dtype(labels.dtype)
    whole = ops.cast(labels, "int32")
    return whole, ops.cast(whole, dtype) == labels


def first_largest(scores):
    """Argmax over the last axis, float -> int32; at a tie the first. -0.0 and 0.0 are one, as in NumPy and in exported
    files, and unlike in keras.ops.argmax: networks trained for 8 bits have many of both.

    The bits of a float32 without its sign, read as an integer and given that sign, sort like the number itself; and
    the integer argmax is up to twice as fast in TensorFlow's graphs and 14 times on JAX (CPU).
    """
    bits = ops.view(ops.cast(scores, "float32"), "int32")
    negative = ops.right_shift(bits, 31)  # all ones, or zero
    return ops.argmax(ops.bitwise_xor(ops.bitwise_and(bits, 0x7FFFFFFF), negative) - negative, axis=-1)
