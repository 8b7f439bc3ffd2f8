"""A source of arrays that are in memory already."""

import hashlib

import numpy as np

from kseg.data.sources import Source, foreign_indices, index_counts
from kseg.errors import InputError


class _Arrays(Source):
    def __init__(self, images, masks, labels, names):
        self.labels, self.names = labels, names
        self._images, self._masks = images, masks

    def load_image(self, index):
        image = self._images[index]
        return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image

    def load_label(self, index):
        return self._masks[index].astype(np.int32), 0

    def fingerprint(self, index):
        image, label = self.load(index)
        digests = [hashlib.sha256(np.ascontiguousarray(array)).hexdigest() for array in (image, label)]
        return f"{image.shape} {digests}"

    def size(self, index):
        return self._images[index].shape[:2]


def arrays(images, masks, labels, names=None):
    """Source of arrays that are in memory already.

    Args:
        images: sequence of uint8 [H, W, 3] or [H, W] (grey), or one array of them; sizes may differ.
        masks: sequence of integer [H, W], class indices.
        labels: LabelSet.
        names: one name a sample; "0", "1", ... if None.
    Raises:
        InputError: shapes or dtypes do not fit, there are none, or an index is outside the label set.
    """
    images, masks = [np.asarray(image) for image in images], [np.asarray(mask) for mask in masks]
    names = tuple(str(i) for i in range(len(images))) if names is None else tuple(names)
    if not len(images) == len(masks) == len(names) or not images:
        raise InputError(
            "`images`, `masks` and `names` need the same length, not zero. "
            f"Received: {len(images)}, {len(masks)}, {len(names)}"
        )
    for name, image, mask in zip(names, images, masks, strict=True):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
            raise InputError(f"image {name} must be uint8 [H, W] or [H, W, 3]. Received: {image.dtype} {image.shape}")
        if not np.issubdtype(mask.dtype, np.integer) or mask.shape != image.shape[:2] or 0 in mask.shape:
            raise InputError(
                f"mask {name} must be integer {list(image.shape[:2])}, not empty. Received: {mask.dtype} {mask.shape}"
            )
        if message := foreign_indices(index_counts(mask.astype(np.int64)), labels):
            raise InputError(f"mask {name}: {message}")
    return _Arrays(images, masks, labels, names)
