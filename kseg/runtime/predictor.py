"""The predictor: images of any size in, scores of the same size out, whatever interpreter runs the file."""

import numpy as np

from kseg.runtime.resize import resize, resized_argmax


class Predictor:
    """An exported network, ready to be called. Made by `kseg.runtime.load`.

    Not to be shared by threads: the interpreter inside holds one image at a time. Load one a thread instead.

    Attributes:
        card: the Card.
        labels: the LabelSet.
        size_px: (height, width) at which the network works.
    """

    def __init__(self, card, run):
        """`run`: float32 [H, W, 3] in 0..255 at the card's size -> float32 [H, W, classes]."""
        self.card = card
        self.labels = card.labels
        self.size_px = card.size_px
        self._run = run

    def __call__(self, images):
        """Scores of every pixel.

        Args:
            images: uint8 or float RGB [B, H, W, 3] in 0..255, of any size. Each is resized to the card's size and
                run by itself; its scores are brought back to H x W, both bilinearly with half-pixel centres.
        Returns:
            float32 [B, H, W, classes].
        Raises:
            ValueError: the shape or the dtype is another.
        """
        images = _checked(images)
        scores = np.empty((*images.shape[:3], len(self.labels)), np.float32)
        for image, target in zip(images, scores, strict=True):
            target[...] = resize(self._small(image), image.shape[:2])
        return scores

    def indices(self, images):
        """The class of every pixel: `predictor(images).argmax(-1)`, without ever holding all the scores.

        Args:
            images: as in a call.
        Returns:
            int32 [B, H, W].
        """
        images = _checked(images)
        result = np.empty(images.shape[:3], np.int32)
        for image, target in zip(images, result, strict=True):
            target[...] = resized_argmax(self._small(image), target.shape)
        return result

    def at_size(self, image):
        """The network itself, without any resizing: float32 [H, W, 3] at `size_px` -> float32 [H, W, classes].

        Raises:
            ValueError: the image has another size.
        """
        if image.shape != (*self.size_px, 3):
            raise ValueError(f"`image` must have the shape {[*self.size_px, 3]}. Received: {list(image.shape)}")
        return self._run(np.asarray(image, np.float32))

    def _small(self, image):
        return self.at_size(resize(image, self.size_px))


def _checked(images):
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape[1:]:
        raise ValueError(f"`images` must be RGB [B, H, W, 3]. Received: shape {list(images.shape)}")
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"`images` must be uint8 or float, in 0..255. Received: {images.dtype}")
    return images
