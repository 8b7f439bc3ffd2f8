"""What every loss does first: check the shapes, tell the valid pixels from the ignored ones, go to float32."""

from keras import ops

# The integer types that fit into int32 whole. Every other type is compared with its own int32 copy.
_FITS_INT32 = ("bool", "int8", "uint8", "int16", "uint16", "int32")


def prepare(labels, logits, ignore):
    """Check and convert the arguments that all losses share.

    Args:
        labels: whole numbers [B, H, W] or [B, H, W, 1]; any dtype (Keras hands losses float32 labels).
        logits: float [B, H, W, classes], at least two classes, any float dtype.
        ignore: the label of unlabelled pixels, or None.
    Returns:
        (labels int32 [B, H, W], -1 wherever the pixel is not valid;
        logits float32 [B, H, W, classes], 0 at pixels that are not valid;
        valid float32 [B, H, W], 1 where the label is a class;
        flaw float32 scalar: 0, or NaN if a label is neither a class nor `ignore`).
    Raises:
        ValueError: the shapes do not fit, or `ignore` is itself a class.
    """
    labels, logits = ops.convert_to_tensor(labels), ops.convert_to_tensor(logits)
    if len(labels.shape) == 4 and labels.shape[-1] == 1:
        labels = ops.squeeze(labels, -1)
    _check_shapes(labels.shape, logits.shape)
    classes = logits.shape[-1]
    if ignore is not None and 0 <= ignore < classes:
        raise ValueError(f"`ignore` must lie outside the {classes} classes. Received: {ignore}")
    labels, whole = _to_int32(labels)
    valid = ops.logical_and(ops.logical_and(labels >= 0, labels < classes), whole)
    accounted = valid if ignore is None else ops.logical_or(valid, labels == ignore)
    # A graph cannot raise, and a wrong label must not pass in silence: the value becomes NaN. The flaw is added, not
    # multiplied, so that it stays out of the gradients and one wrong mask does not also destroy the weights.
    flaw = ops.where(ops.all(accounted), 0.0, float("nan"))
    logits = ops.cast(logits, "float32")
    # Masked here and not after the softmax: 0 * NaN would carry an overflow under an ignored pixel into the gradients.
    logits = ops.where(ops.expand_dims(valid, -1), logits, 0.0)
    return ops.where(valid, labels, -1), logits, ops.cast(valid, "float32"), flaw


def mean_over(values, mask, axis=None):
    """Mean of `values` where weighted by `mask` (same shape, float32 >= 0); 0 where the mask holds nothing."""
    total = ops.sum(mask, axis=axis)
    return ops.sum(values * mask, axis=axis) / ops.where(total > 0, total, 1.0)


def sum_over_pixels(values):
    """Sum of values >= 0, float32 [B, H, W, ...] -> [...], good to about 1e-6 of what is summed.

    Added up in one go, TensorFlow and XLA lose 0.6 % over 8 x 512 x 512 pixels: once the running sum is large, every
    further value is rounded to its last digits. Row by row the sums stay short. `maximum` changes nothing; it keeps
    XLA from merging the three sums into one again.
    """
    rows = ops.maximum(ops.sum(values, axis=2), 0.0)  # [B, H, ...]
    images = ops.maximum(ops.sum(rows, axis=1), 0.0)  # [B, ...]
    return ops.sum(images, axis=0)


def _check_shapes(labels, logits):
    # Sizes may be unknown while a graph is built: only known ones are compared.
    if len(logits) != 4 or logits[-1] is None or logits[-1] < 2:
        raise ValueError(
            f"`logits` must have the shape [B, H, W, classes] with at least 2 classes. Received: {tuple(logits)}"
        )
    same = len(labels) == 3 and all(a is None or b is None or a == b for a, b in zip(labels, logits[:3], strict=True))
    if not same:
        raise ValueError(
            "`labels` and `logits` must agree in batch, height and width: [B, H, W] and [B, H, W, classes]. "
            f"Received: {tuple(labels)} and {tuple(logits)}"
        )


def _to_int32(labels):
    """(labels as int32, bool: the conversion kept the value). 0.5, NaN and 2**32 are not to end up as class 0."""
    dtype = str(getattr(labels.dtype, "name", labels.dtype))
    whole = ops.cast(labels, "int32")
    if dtype in _FITS_INT32:
        return whole, ops.ones_like(whole, dtype="bool")
    return whole, ops.cast(whole, dtype) == labels
