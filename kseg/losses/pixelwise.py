"""Losses that are a mean over pixels: cross-entropy, over all or the hardest, and focal loss."""

from keras import ops

from kseg.losses.pixels import prepare, sum_over_pixels


def cross_entropy(labels, logits, ignore=None, class_weights=None, label_smoothing=0.0, sample_weight=None):
    """Softmax cross-entropy: the weighted mean over all valid pixels of the batch.

    With w the weight of a pixel (that of its class times its sample weight; 1 without either), the loss is
    sum(w * ce) / sum(w): it keeps its scale whatever the weights are and however many pixels are ignored.

    Args:
        labels: whole numbers [B, H, W] or [B, H, W, 1], class indices; `ignore` marks unlabelled pixels.
        logits: float [B, H, W, classes], not normalised.
        ignore: label of the pixels that do not count, outside 0..classes - 1, or None.
        class_weights: one number >= 0 a class, or None for 1 each.
        label_smoothing: in [0, 1): the part of the target that is spread evenly over all classes.
        sample_weight: float >= 0, [B] or [B, H, W] or [B, H, W, 1], or None.
    Returns:
        float32 scalar >= 0, computed in float32 under any dtype policy. 0, with zero gradients, if no pixel is
        valid. NaN, with the gradients of the valid pixels, if a label is neither a class nor `ignore`.
    Raises:
        ValueError: the shapes do not fit, `ignore` is a class, or an argument is out of its range.
    Reference: Szegedy et al. 2016, section 7 (label smoothing). Departs: with class weights the whole smoothed term
    of a pixel takes the weight of its true class.
    """
    check_smoothing(label_smoothing)
    labels, logits, valid, flaw = prepare(labels, logits, ignore)
    losses = _cross_entropies(labels, logits)
    if label_smoothing:
        evenly = -ops.mean(ops.log_softmax(logits), axis=-1)
        losses = (1.0 - label_smoothing) * losses + label_smoothing * evenly
    weights = _weights(labels, valid, logits.shape[-1], class_weights, sample_weight)
    return _mean(losses, weights) + flaw


def focal(labels, logits, ignore=None, gamma=2.0, class_weights=None, sample_weight=None):
    """Focal loss: cross-entropy with every pixel scaled by (1 - probability of its true class) ** gamma.

    Args:
        labels: whole numbers [B, H, W] or [B, H, W, 1], class indices; `ignore` marks unlabelled pixels.
        logits: float [B, H, W, classes], not normalised.
        ignore: label of the pixels that do not count, outside 0..classes - 1, or None.
        gamma: >= 0; 0 is cross-entropy, more turns away from the pixels that are already right.
        class_weights: one number >= 0 a class (the paper's alpha), or None for 1 each.
        sample_weight: float >= 0, [B] or [B, H, W] or [B, H, W, 1], or None.
    Returns:
        float32 scalar >= 0, a weighted mean as in `cross_entropy`; 0 without valid pixels; NaN if a label is
        neither a class nor `ignore`.
    Raises:
        ValueError: as `cross_entropy`.
    Reference: Lin et al. 2017, equations 4 and 5. Departs: softmax over classes in the place of the sigmoid, and
    divided by the sum of the weights, not by the number of anchors with an object.
    """
    check_gamma(gamma)
    labels, logits, valid, flaw = prepare(labels, logits, ignore)
    losses = _cross_entropies(labels, logits)
    if gamma:
        # 1 - p = -expm1(-ce) keeps its digits where p is near 1. The floor keeps the slope of x ** gamma finite at 0.
        losses = ops.maximum(-ops.expm1(-losses), 1e-7) ** gamma * losses
    weights = _weights(labels, valid, logits.shape[-1], class_weights, sample_weight)
    return _mean(losses, weights) + flaw


def hard_pixels(labels, logits, ignore=None, share=0.25, class_weights=None, sample_weight=None):
    """Cross-entropy over the hardest pixels of the batch: those with the largest cross-entropy.

    Of the n valid pixels with a weight above 0, the share * n with the largest cross-entropy are taken (rounded, at
    least one), whatever their weights; the loss is their weighted mean as in `cross_entropy`. Pixels that are exactly
    as hard as the last one taken share the places that are left, so that the value does not depend on their order.

    Args:
        labels: whole numbers [B, H, W] or [B, H, W, 1], class indices; `ignore` marks unlabelled pixels.
        logits: float [B, H, W, classes], not normalised.
        ignore: label of the pixels that do not count, outside 0..classes - 1, or None.
        share: in (0, 1]; 1 is cross-entropy.
        class_weights: one number >= 0 a class, or None for 1 each.
        sample_weight: float >= 0, [B] or [B, H, W] or [B, H, W, 1], or None.
    Returns:
        float32 scalar >= 0; 0 without valid pixels; NaN if a label is neither a class nor `ignore`.
    Raises:
        ValueError: as `cross_entropy`.
    Reference: Wu et al. 2016 ("Bridging category-level and instance-level semantic image segmentation"), section 3
    (online bootstrapping); Shrivastava et al. 2016 (OHEM). Departs: a share of the batch's valid pixels in the place of
    a threshold or a fixed number, so that it means the same for every crop, batch and amount of unlabelled pixels.
    """
    check_share(share)
    labels, logits, valid, flaw = prepare(labels, logits, ignore)
    losses = _cross_entropies(labels, logits)
    weights = _weights(labels, valid, logits.shape[-1], class_weights, sample_weight)
    return _mean(losses, weights * _hardest(ops.stop_gradient(losses), weights > 0, share)) + flaw


def check_smoothing(label_smoothing):
    """Raises: ValueError: not in [0, 1)."""
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"`label_smoothing` must be in [0, 1). Received: {label_smoothing}")


def check_gamma(gamma):
    """Raises: ValueError: negative or not finite."""
    if not 0.0 <= gamma < float("inf"):
        raise ValueError(f"`gamma` must be a finite number >= 0. Received: {gamma}")


def check_share(share):
    """Raises: ValueError: not in (0, 1]."""
    if not 0.0 < share <= 1.0:
        raise ValueError(f"`share` must be in (0, 1]. Received: {share}")


def check_class_weights(class_weights):
    """Raises: ValueError: a weight is negative or not finite, or all are 0."""
    weights = list(class_weights)
    if not all(0.0 <= weight < float("inf") for weight in weights) or not any(weights):
        raise ValueError(f"`class_weights` must be finite numbers >= 0, not all 0. Received: {weights}")


def _cross_entropies(labels, logits):
    # float32 [B, H, W]; at pixels that are not valid any finite value, which the weights take out.
    return ops.sparse_categorical_crossentropy(ops.maximum(labels, 0), logits, from_logits=True)


def _hardest(losses, counted, share):
    """float32 [B, H, W]: 1 for the hardest `share` of the counted pixels, less for ties with the last, else 0."""
    losses = ops.where(counted, losses, -1.0)  # behind every counted pixel
    ranked = ops.sort(ops.reshape(losses, (-1,)))  # rising
    total = ops.sum(ops.cast(counted, "int32"))
    # Not more than there are: from 2 ** 24 on a count in float32 may be rounded up.
    taken = ops.clip(ops.cast(ops.round(share * ops.cast(total, "float32")), "int32"), 1, ops.maximum(total, 1))
    least = ops.take(ranked, ops.shape(ranked)[0] - taken)
    harder, tied = losses > least, losses == least
    left = taken - ops.sum(ops.cast(harder, "int32"))
    part = ops.cast(left, "float32") / ops.cast(ops.maximum(ops.sum(ops.cast(tied, "int32")), 1), "float32")
    return ops.where(harder, 1.0, ops.where(tied, part, 0.0))


def _mean(losses, weights):
    total = sum_over_pixels(weights)
    return sum_over_pixels(losses * weights) / ops.where(total > 0, total, 1.0)


def _weights(labels, valid, classes, class_weights, sample_weight):
    # float32 [B, H, W]
    weights = valid
    if class_weights is not None:
        check_class_weights(class_weights)
        if len(class_weights) != classes:
            raise ValueError(
                f"`class_weights` must hold one weight for each of {classes} classes. Received: {list(class_weights)}"
            )
        table = ops.convert_to_tensor([float(weight) for weight in class_weights], dtype="float32")
        weights = weights * ops.take(table, ops.maximum(labels, 0), axis=0)
    if sample_weight is not None:
        weights = weights * _as_pixels(ops.cast(sample_weight, "float32"), labels.shape)
    return weights


def _as_pixels(sample_weight, shape):
    # [B] -> [B, 1, 1]; [B, H, W] and [B, H, W, 1] -> [B, H, W]
    received = tuple(sample_weight.shape)
    if len(received) == 4 and received[-1] == 1:
        sample_weight = ops.squeeze(sample_weight, -1)
    elif len(received) == 1:
        sample_weight = ops.reshape(sample_weight, (-1, 1, 1))
    fits = len(sample_weight.shape) == 3 and all(
        a is None or b is None or a == b or (a == 1 and len(received) == 1)
        for a, b in zip(sample_weight.shape, shape, strict=True)
    )
    if not fits:
        raise ValueError(f"`sample_weight` must have the shape [B] or {tuple(shape)}. Received: {received}")
    return sample_weight
