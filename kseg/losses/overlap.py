"""Losses that measure regions, not pixels: soft Dice, soft Jaccard, Tversky and Lovász-softmax.

One rule for which classes are averaged holds for all four: the classes that have at least one valid pixel in the
batch, each with the same weight. A class that is absent has no region to overlap with; pixels wrongly given to it
are missed by their own classes and are paid for there. Sums run over the whole batch, not image by image, so the
value depends on how images are put into batches (`lovasz_softmax` offers both).
"""

from keras import ops

from kseg.losses.pixels import mean_over, prepare, sum_over_pixels

# In how many steps lovasz_softmax tells errors apart.
_STEPS = 2**14


def soft_dice(labels, logits, ignore=None, smooth=0.0):
    """1 - Dice coefficient of softmax(logits) and the one-hot labels, averaged over the classes present.

    With p the probabilities and g the truth (0 or 1) of one class at all valid pixels:
    Dice = (2 sum(p g) + smooth) / (sum(p^2) + sum(g^2) + smooth).

    Args:
        labels: whole numbers [B, H, W] or [B, H, W, 1], class indices; `ignore` marks unlabelled pixels.
        logits: float [B, H, W, classes], not normalised.
        ignore: label of the pixels that do not count, outside 0..classes - 1, or None.
        smooth: >= 0, in pixels; softens the loss of classes that are only a few pixels large.
    Returns:
        float32 scalar in [0, 1]; 0 is perfect. Summed in float32 under any dtype policy. 0, with zero gradients, if
        no pixel is valid. NaN, with the gradients of the valid pixels, if a label is neither a class nor `ignore`.
    Raises:
        ValueError: the shapes do not fit, `ignore` is a class, or `smooth` is negative.
    Reference: Milletari et al. 2016 (V-Net), section 3, with its squared denominator. Departs: any number of classes
    and `smooth`. For the denominator without squares take `tversky` with alpha = beta = 0.5.
    """
    both, predicted, true, present, flaw = _regions(labels, logits, ignore, smooth, squared=True)
    dice = (2.0 * both + smooth) / _safe(predicted + true + smooth, present)
    return mean_over(1.0 - dice, present) + flaw


def soft_jaccard(labels, logits, ignore=None, smooth=0.0):
    """1 - Jaccard index (IoU) of softmax(logits) and the one-hot labels, averaged over the classes present.

    Jaccard = (sum(p g) + smooth) / (sum(p^2) + sum(g^2) - sum(p g) + smooth): with smooth = 0 this is
    Dice / (2 - Dice) of `soft_dice`, class by class.

    Args:
        labels: whole numbers [B, H, W] or [B, H, W, 1], class indices; `ignore` marks unlabelled pixels.
        logits: float [B, H, W, classes], not normalised.
        ignore: label of the pixels that do not count, outside 0..classes - 1, or None.
        smooth: >= 0, in pixels.
    Returns:
        float32 scalar in [0, 1], 0 is perfect; special cases as in `soft_dice`.
    Raises:
        ValueError: as `soft_dice`.
    Reference: Rahman and Wang 2016. Departs: squared denominator, to match `soft_dice`; any number of
    classes. For the denominator without squares take `tversky` with alpha = beta = 1.
    """
    both, predicted, true, present, flaw = _regions(labels, logits, ignore, smooth, squared=True)
    jaccard = (both + smooth) / _safe(predicted + true - both + smooth, present)
    return mean_over(1.0 - jaccard, present) + flaw


def tversky(labels, logits, ignore=None, alpha=0.3, beta=0.7, smooth=0.0):
    """1 - Tversky index of softmax(logits) and the one-hot labels, averaged over the classes present.

    Tversky = (sum(p g) + smooth) / (sum(p g) + alpha sum(p (1 - g)) + beta sum((1 - p) g) + smooth).

    Args:
        labels: whole numbers [B, H, W] or [B, H, W, 1], class indices; `ignore` marks unlabelled pixels.
        logits: float [B, H, W, classes], not normalised.
        ignore: label of the pixels that do not count, outside 0..classes - 1, or None.
        alpha: >= 0, the price of false positives.
        beta: >= 0, the price of false negatives; beta > alpha asks for recall. 0.5 and 0.5 give Dice, 1 and 1
            Jaccard, both without squares.
        smooth: >= 0, in pixels.
    Returns:
        float32 scalar in [0, 1], 0 is perfect; special cases as in `soft_dice`.
    Raises:
        ValueError: as `soft_dice`, or alpha or beta is negative, or both are 0.
    Reference: Salehi et al. 2017, section 2 (the defaults did best there). Departs: any number of classes, `smooth`.
    """
    check_tversky(alpha, beta)
    both, predicted, true, present, flaw = _regions(labels, logits, ignore, smooth, squared=False)
    price = alpha * (predicted - both) + beta * (true - both)
    return mean_over(1.0 - (both + smooth) / _safe(both + price + smooth, present), present) + flaw


def lovasz_softmax(labels, logits, ignore=None, per_image=False):
    """Lovász-softmax: the convex extension of the Jaccard loss, averaged over the classes present.

    Args:
        labels: whole numbers [B, H, W] or [B, H, W, 1], class indices; `ignore` marks unlabelled pixels.
        logits: float [B, H, W, classes], not normalised.
        ignore: label of the pixels that do not count, outside 0..classes - 1, or None.
        per_image: False takes the batch as one big image. True takes each image with the classes present in it and
            averages over the images that have a valid pixel.
    Returns:
        float32 scalar in [0, 1], 0 is perfect; special cases as in `soft_dice`.
    Raises:
        ValueError: the shapes do not fit, or `ignore` is a class.
    Reference: Berman et al. 2018, algorithm 1, over the classes present. Departs: the pixels are counted by their
    error in steps of 1 / 16384 instead of sorted, which is several times as fast; errors within a step count as equal
    when the slopes are told, and as what they are in the sum, so the value is the sorted one's within 1 / 16384. The
    slopes come from exact integer counts; differences of neighbouring Jaccard indices would cancel in float32.
    """
    labels, logits, valid, flaw = prepare(labels, logits, ignore)
    classes = logits.shape[-1]
    images = ops.shape(labels)[0] if per_image else 1
    true = ops.reshape(labels, (images, 1, -1)) == ops.arange(classes, dtype="int32")[None, :, None]  # bool [N, C, P]
    probabilities = ops.reshape(ops.softmax(logits), (images, -1, classes))
    probabilities = ops.transpose(probabilities, (0, 2, 1))  # [N, C, P]
    right = ops.where(true, probabilities, 1.0 - probabilities)  # 1 - error
    places = _places(right, true)
    counted = ops.broadcast_to(ops.reshape(ops.cast(valid, "int32"), (images, 1, -1)), ops.shape(true))
    counts = ops.segment_sum(ops.reshape(counted, (-1,)), places, images * classes * _STEPS * 2)
    counts = ops.reshape(counts, (images, classes, _STEPS, 2))
    slopes = ops.take(ops.reshape(_jaccard_slopes(counts), (-1,)), places)
    slopes = ops.reshape(slopes, ops.shape(true)) * ops.cast(counted, "float32")
    losses = ops.sum((1.0 - right) * ops.stop_gradient(slopes), axis=-1)  # [N, C]
    present = ops.cast(ops.any(true, axis=-1), "float32")
    by_image = mean_over(losses, present, axis=-1)  # [N]
    return mean_over(by_image, ops.max(present, axis=-1)) + flaw


def check_smooth(smooth):
    """Raises: ValueError: negative or not finite."""
    if not 0.0 <= smooth < float("inf"):
        raise ValueError(f"`smooth` must be a finite number >= 0. Received: {smooth}")


def check_tversky(alpha, beta):
    """Raises: ValueError: a price is negative or not finite, or both are 0 (the loss would be 0 everywhere)."""
    if not (0.0 <= alpha < float("inf") and 0.0 <= beta < float("inf") and alpha + beta > 0.0):
        raise ValueError(f"`alpha` and `beta` must be finite, >= 0 and not both 0. Received: {alpha} and {beta}")


def _regions(labels, logits, ignore, smooth, squared):
    """Per class, float32 [classes]: sums of p g, of p (or p^2), of g; 1.0 where the class is present; the flaw."""
    check_smooth(smooth)
    labels, logits, valid, flaw = prepare(labels, logits, ignore)
    probabilities = ops.softmax(logits) * ops.expand_dims(valid, -1)
    true = ops.one_hot(labels, logits.shape[-1], dtype="float32")  # the label -1 gives a row of zeros
    both = sum_over_pixels(probabilities * true)
    predicted = sum_over_pixels(ops.square(probabilities) if squared else probabilities)
    true = sum_over_pixels(true)
    return both, predicted, true, ops.cast(true > 0, "float32"), flaw


def _safe(denominator, present):
    # Dividing by 1 keeps 0/0 out of the gradients: of absent classes, which are left out of the mean, and of those that
    # nothing was found of, where that has no price (Tversky's beta 0).
    return ops.where(ops.logical_and(present > 0, denominator > 0), denominator, 1.0)


def _places(right, true):
    """Where each pixel is counted, int32 [N * C * P]: by image, class, falling error, and whether of the class."""
    images, classes = ops.shape(right)[:2]
    steps = ops.cast(ops.stop_gradient(right) * _STEPS, "int32")
    steps = ops.clip(steps, 0, _STEPS - 1)  # of NaN, any: the sum is NaN by the error itself
    rows = ops.reshape(ops.arange(images * classes, dtype="int32"), (images, classes, 1))
    return ops.reshape((rows * _STEPS + steps) * 2 + ops.cast(true, "int32"), (-1,))


def _jaccard_slopes(counts):
    """Berman's algorithm 1: what the Jaccard loss grows by as the pixels go wrong one after the other.

    With I the pixels of the class still right and U the union: a pixel of the class takes one from I and leaves U, so
    the loss grows by 1 / U; the n others of a step, which go after it, make U to U + n and cost I / U - I / (U + n).

    Args:
        counts: int32 [N, C, steps, 2], by falling error: the pixels of another class, and those of the class.
    Returns:
        float32 of the same shape, for one pixel of each kind.
    """
    others, own = counts[..., 0], counts[..., 1]
    size = ops.sum(own, axis=-1, keepdims=True)
    # int32: exact for any image, where float32 would stop at 2**24 pixels
    union = ops.cast(ops.maximum(size + ops.cumsum(others, axis=-1) - others, 1), "float32")
    still_right = ops.cast(size - ops.cumsum(own, axis=-1), "float32")
    return ops.stack([still_right / (union * (union + ops.cast(others, "float32"))), 1.0 / union], axis=-1)
