"""The predictor: images of any size in, scores of the same size out, whatever interpreter runs the file."""

import warnings

import numpy as np

from kseg.errors import CheckError, InputError
from kseg.runtime import windows
from kseg.runtime.resize import resize, resize_nearest, resized_argmax


class Predictor:
    """An exported network, ready to be called. Made by `kseg.runtime.load`.

    Not to be shared by threads: the interpreter inside holds one image at a time. Load one a thread instead.

    Attributes:
        card: the Card.
        labels: the LabelSet.
        kind: what the scores are: "logits", "probabilities", or 0 and 1 of a file that gives "labels".
        size_px: (height, width) at which the network works; None: at each image's own.
    """

    def __init__(self, card, run):
        """`run`: float32 [H, W, 3] in 0..255 -> scores float32 [H, W, classes], or labels int32 [H, W]."""
        self.card = card
        self.labels = card.labels
        self.size_px = card.size_px
        self.kind = card.output["kind"]
        self._gives_labels = self.kind == "labels"
        self._run = run

    def __call__(self, images):
        """Scores of every pixel.

        Args:
            images: uint8 or float RGB [B, H, W, 3] in 0..255, of any size. Each is resized to the card's size and
                run by itself; its scores are brought back to H x W, both bilinearly with half-pixel centres. The
                labels of a file that gives labels go back to H x W by the nearest neighbour, and become scores of
                0 and 1. A resizable file runs each image as it is.
        Returns:
            float32 [B, H, W, classes].
        Raises:
            ValueError: the shape or the dtype is another.
            InputError: a resizable network does not take an image of this size.
            CheckError: the file does not give what its card says.
        """
        images = _checked(images)
        scores = np.empty((*images.shape[:3], len(self.labels)), np.float32)
        for image, target in zip(images, scores, strict=True):
            found = self._at_own_size(image)
            if self._gives_labels:
                target[...] = self._one_hot(resize_nearest(found, image.shape[:2]))
            else:
                target[...] = resize(found, image.shape[:2])
        return scores

    def indices(self, images):
        """The class of every pixel: `predictor(images).argmax(-1)`, without ever holding all the scores.

        A resizable file takes large images in windows, see `kseg.runtime.windows`.

        Args:
            images: as in a call.
        Returns:
            int32 [B, H, W].
        Raises:
            as in a call.
            InputError: the file gives one score a pixel, which no class can be told from.
            CheckError: scores that are not finite.
        """
        images = _checked(images)
        if len(self.labels) == 1:
            raise InputError(f"{self.card.file}: gives one score a pixel; compare what a call gives with a threshold")
        result = np.empty(images.shape[:3], np.int32)
        for image, target in zip(images, result, strict=True):
            if self.size_px is None and windows.is_large(image):
                target[...] = windows.indices(lambda part: self(part[None])[0], image)
            else:
                target[...] = self._classify(image)
        return result

    def at_size(self, image):
        """The network itself, without any resizing.

        Args:
            image: float [H, W, 3] in 0..255 at `size_px`; of any size where that is None.
        Returns:
            float32 [H, W, classes]; 0 and 1 where the file gives labels.
        Raises:
            ValueError: the image has another size.
        """
        size_px = self.size_px or image.shape[:2]
        if image.shape != (*size_px, 3):
            raise ValueError(f"`image` must have the shape {[*size_px, 3]}. Received: {list(image.shape)}")
        found = self._checked_run(image)
        return self._one_hot(found) if self._gives_labels else found

    def _classify(self, image):
        found = self._at_own_size(image)
        if self._gives_labels:
            return resize_nearest(found, image.shape[:2])
        return resized_argmax(windows.finite(found), image.shape[:2])

    def _at_own_size(self, image):
        """What the file gives for the image, at the network's size."""
        return self._checked_run(resize(image, self.size_px or image.shape[:2]))

    def _checked_run(self, image):
        found = self._run(np.asarray(image, np.float32))
        wanted = image.shape[:2] if self._gives_labels else (*image.shape[:2], len(self.labels))
        if found.shape != wanted:
            raise CheckError(f"{self.card.file}: gives {list(found.shape)} for an image of {list(image.shape)}")
        if self._gives_labels and not 0 <= found.min() <= found.max() < len(self.labels):
            raise CheckError(f"{self.card.file}: gives class {found.max()}; its card has {len(self.labels)} labels")
        return found

    def _one_hot(self, classes):
        return (classes[..., None] == np.arange(len(self.labels))).astype(np.float32)


def _checked(images):
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape[1:]:
        raise ValueError(f"`images` must be RGB [B, H, W, 3]. Received: shape {list(images.shape)}")
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"`images` must be uint8 or float, in 0..255. Received: {images.dtype}")
    if images.dtype != np.uint8 and 0 < images.max(initial=0) <= 1:
        warnings.warn("the images are in 0..1, or nearly black: `images` must be in 0..255", stacklevel=3)
    return images
