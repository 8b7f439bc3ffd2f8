"""Test-time augmentation: the mean of what a predictor says of several views of the same image."""

import math
from itertools import product

import numpy as np

from kseg.errors import InputError
from kseg.runtime import windows
from kseg.runtime.resize import resize

# Views of an image: quarter turns, after a flip from left to right.
FLIPS = {
    "none": ((0, False),),
    "horizontal": ((0, False), (0, True)),
    "all": tuple(product(range(4), (False, True))),
}


class Augmented:
    """A predictor that averages the probabilities of another one over flips and scales of each image.

    Each view is predicted, taken back to the image's place and size, and averaged. Probabilities rather than logits:
    they are bounded, so that one view that is very sure cannot outvote all others, and every file has them; one that
    gives labels casts votes. The time is that of flips x scales predictions.

    Reference: Chen et al. 2017, "Rethinking Atrous Convolution for Semantic Image Segmentation" (DeepLabv3), section 4:
    several scales and left-right flips at inference; its published code averages the softmax like this.

    Attributes:
        labels: of the predictor within; None if it has none.
        kind: "probabilities".
        size_px: None: images of every size.
    """

    kind, size_px = "probabilities", None

    def __init__(self, predictor, flips="horizontal", scales=(1.0,)):
        """
        Args:
            predictor: callable, images [B, H, W, 3] -> scores [B, H, W, classes]. If its `kind` is not said, they are
                logits.
            flips: "none", "horizontal", or "all": the eight views that quarter turns and a flip make.
            scales: factors of height and width. Images are resized bilinearly without antialiasing, as for training.
        Raises:
            InputError: an argument out of its range, or scales for a file that works at one size: it would see every
                scale as the same image, less or more blurred. In windows (`kseg.runtime.windows.Windowed`) it has
                scales like any other.
        """
        scales = tuple(float(scale) for scale in scales)
        if flips not in FLIPS:
            raise InputError(f"`flips` must be one of {', '.join(FLIPS)}. Received: {flips}")
        if not scales or not all(0 < scale < math.inf for scale in scales):
            raise InputError(f"`scales` must be factors above 0, at least one. Received: {list(scales)}")
        fixed = getattr(predictor, "size_px", None)
        if fixed and scales != (1.0,):
            window = f"{fixed[0]}x{fixed[1]}"
            raise InputError(f"the file resizes every image to {window}, so scales need windows of {window} as well")
        self.labels = getattr(predictor, "labels", None)
        self._predictor, self._views, self._scales = predictor, FLIPS[flips], scales

    def __call__(self, images):
        """Mean probabilities, float32 [B, H, W, classes]; `images` as the predictor within takes them.

        Raises:
            CheckError: scores that are not finite.
        """
        images = np.asarray(images)
        size_px, total = images.shape[1:3], 0.0
        for scale in self._scales:
            total = total + _resized(self._mean_of_views(_resized(images, _scaled(size_px, scale))), size_px)
        return total / np.float32(len(self._scales))

    def indices(self, images):
        """The class of every pixel, int32 [B, H, W]; large images in windows, see `kseg.runtime.windows`.

        Raises:
            CheckError: scores that are not finite.
        """
        images = np.asarray(images)
        if windows.is_large(images[0]):
            return np.stack([windows.indices(lambda part: self(part[None])[0], image) for image in images])
        return self(images).argmax(-1).astype(np.int32)

    def _mean_of_views(self, images):
        total = 0.0
        for turns, flipped in self._views:
            view = np.rot90(images[:, :, ::-1] if flipped else images, turns, axes=(1, 2))
            found = np.rot90(probabilities(self._predictor, np.ascontiguousarray(view)), -turns, axes=(1, 2))
            total = total + (found[:, :, ::-1] if flipped else found)
        return total / np.float32(len(self._views))


def probabilities(predictor, images):
    """What a predictor says, as probabilities: logits go through a softmax.

    Args:
        predictor: callable, images -> float [B, H, W, classes]. If its `kind` is not said, these are logits.
        images: as it takes them.
    Returns:
        float32 [B, H, W, classes].
    Raises:
        CheckError: scores that are not finite.
    """
    scores = windows.finite(np.asarray(predictor(images), np.float32))
    if getattr(predictor, "kind", "logits") != "logits":
        return scores
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _scaled(size_px, scale):
    return tuple(max(1, round(scale * side)) for side in size_px)


def _resized(images, size_px):
    if images.shape[1:3] == tuple(size_px):
        return images
    return np.stack([resize(image, size_px) for image in images])
