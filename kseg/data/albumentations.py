"""albumentations transforms inside tf.data, in parallel and repeatable."""

import copy
import math
import os
import threading

import numpy as np

from kseg.data.backend import tensorflow
from kseg.errors import need


class Albumentations:
    """An `albumentations.Compose` as a transform `(image, label, seed) -> (image, label)`.

    The result depends on the seed only. albumentations keeps its random state inside the Compose, so each thread
    works on a copy of its own, seeded anew for each sample.

    Where a transform resizes, give it `mask_interpolation=cv2.INTER_NEAREST_EXACT`: by default masks are taken from
    pixels up to half a pixel beside those of the image.

    Args:
        compose: `albumentations.Compose`. Its result must have the size that the pipeline wants, for instance by
            `A.RandomCrop(h, w, pad_if_needed=True, fill_mask=ignore)` at its end.
        ignore: the label set's ignore index. If given, every transform that fills up masks with a constant must fill
            with it: albumentations' own default, 0, would label the padding as class 0. None: no check, and
            `border_mode=cv2.BORDER_REFLECT_101` keeps padding truthful.
    Raises:
        ImportError: albumentations is not installed.
        ValueError: `compose` is not a Compose, or a transform fills masks with another index.
    """

    def __init__(self, compose, ignore=None):
        # Or the import asks a server for news.
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        library = need("albumentations", "data")
        if not isinstance(compose, library.Compose):
            raise ValueError(f"`compose` must be an albumentations.Compose. Received: {type(compose).__name__}")
        if ignore is not None:
            _check_fills(compose, ignore)
        self._compose = compose
        self._fill = ignore or 0
        self._own = threading.local()
        # Copying reads the state of the original, and a Compose is not safe for two threads.
        self._copying = threading.Lock()

    def __call__(self, image, label, seed):
        """See kseg.data.transforms. Returns (float32 [h, w, 3], int32 [h, w]); the image is rounded to uint8 first."""
        tf = tensorflow()
        pixels = image if image.dtype == tf.uint8 else tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
        key = tf.random.stateless_uniform([], seed, 0, 2**31 - 1, tf.int32)
        image, label = tf.numpy_function(self.apply, [pixels, label, key], (tf.float32, tf.int32))
        return tf.ensure_shape(image, [None, None, 3]), tf.ensure_shape(label, [None, None])

    def apply(self, image, label, key):
        """The same in NumPy.

        Args:
            image: uint8 [H, W, 3].
            label: int32 [H, W].
            key: int, the seed.
        Returns:
            (float32 [h, w, 3] in 0..255, int32 [h, w]).
        """
        if not hasattr(self._own, "compose"):
            with self._copying:
                self._own.compose = copy.deepcopy(self._compose)
        compose = self._own.compose
        compose.set_random_seed(int(key))
        # OpenCV does not warp int32.
        narrow = label.astype(np.uint8 if label.max(initial=self._fill) < 256 else np.uint16)
        done = compose(image=image, mask=narrow)
        image, mask = np.asarray(done["image"]), np.asarray(done["mask"])
        if image.ndim != 3 or image.shape[2] != 3 or mask.shape != image.shape[:2]:
            raise ValueError(f"the Compose must return [h, w, 3] and [h, w]. Received: {image.shape} and {mask.shape}")
        return image.astype(np.float32), mask.astype(np.int32)


def like_native(crop_px, *, scales, flips, brightness, contrast, saturation, ignore):
    """The changes of `training_batches`' own settings by albumentations: zoom, crop, flips, colour.

    What differs: the window's height is drawn evenly, not the zoom's logarithm; each change of colour rounds to
    whole grey values; an image smaller than the largest window is filled up first.

    Args:
        crop_px, scales, flips, brightness, contrast, saturation: as there.
        ignore: the label set's ignore index, with which crops beyond the image are filled up; None: they mirror it.
    Returns:
        Albumentations.
    Raises:
        ImportError: albumentations is not installed.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    library, cv2 = need("albumentations", "data"), need("cv2", "data")
    padding = {"border_mode": cv2.BORDER_REFLECT_101}
    if ignore is not None:
        padding = {"border_mode": cv2.BORDER_CONSTANT, "fill_mask": ignore}
    height, width = crop_px
    tallest = math.ceil(height / scales[0])
    largest = (tallest, math.ceil(tallest * width / height))
    heights = (min(max(1, math.floor(height / scales[1])), tallest), tallest)
    # The window is cut out before it is enlarged, which costs half of zooming the whole image.
    steps = [
        library.PadIfNeeded(*largest, position="random", **padding),
        # OpenCV's other nearest neighbour counts from the pixels' corners, where the image counts from their centres:
        # masks would lie up to 0.6 pixels beside their images.
        library.RandomSizedCrop(
            heights, (height, width), w2h_ratio=width / height, mask_interpolation=cv2.INTER_NEAREST_EXACT, p=1.0
        ),
    ]
    if flips == "all" and crop_px[0] == crop_px[1]:
        steps.append(library.D4(p=1.0))
    elif flips != "none":
        steps.append(library.HorizontalFlip(p=0.5))
        steps += [library.VerticalFlip(p=0.5)] if flips == "all" else []
    if brightness or contrast or saturation:
        changes = [(max(0.0, 1 - change), 1 + change) for change in (brightness, contrast, saturation)]
        steps.append(library.ColorJitter(*changes, hue=(0, 0), p=1.0))
    return Albumentations(library.Compose(steps), ignore)


def _check_fills(transform, ignore):
    """Look through nested transforms for one that would fill masks with an index other than `ignore`."""
    for part in getattr(transform, "transforms", ()):
        _check_fills(part, ignore)
    fill = getattr(transform, "fill_mask", None)
    if fill is None or not _fills_with_constant(transform):
        return
    if not np.all(np.asarray(fill) == ignore):
        raise ValueError(
            f"`{type(transform).__name__}` must have fill_mask={ignore}, the ignore index. Received: {fill}"
        )


def _fills_with_constant(transform):
    if getattr(transform, "pad_if_needed", True) is False:
        return False
    constant = 0  # cv2.BORDER_CONSTANT
    return getattr(transform, "border_mode", constant) == constant
