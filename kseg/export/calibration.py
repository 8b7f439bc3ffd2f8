"""The images that set the scales of an 8-bit file, and those that prove it: chosen, checked and remembered."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kseg.data import checked, nuclei, open_source, plain_images, read_image, spaced, spread
from kseg.errors import InputError
from kseg.runtime.resize import resize


@dataclass(frozen=True)
class Calibration:
    """Images like those that the network will see, unaugmented.

    Attributes:
        images: tuple of uint8 or float [h, w, 3] in 0..255.
        data: where they come from, for the card.
    Raises:
        InputError: there are none, or their pixels lie in 0..1.
    """

    images: tuple
    data: str = ""

    def __post_init__(self):
        if not self.images:
            raise InputError("8 bits need images for calibration, and there are none: give some (--calibrate DATA)")
        for image in self.images:
            check_image(image, "calibration")
        greatest = max(float(np.max(image)) for image in self.images)
        if not greatest > 1.0:  # NaN too
            raise InputError(
                f"the calibration images reach up to {greatest:.3g}: pixels are wanted in 0..255, not scaled to 0..1"
            )

    @cached_property
    def _digests(self):
        return [digest(image) for image in self.images]

    def at_size(self, size_px):
        """Yield float32 [1, H, W, 3], one after the other; with size_px (None, None) each in its own size."""
        for image in self.images:
            yield (np.array(image, np.float32) if None in size_px else resize(np.asarray(image), size_px))[None]

    def refuse_shared(self, image):
        """Raise InputError if an image that a file is to be scored with is among those that set its scales."""
        if digest(image) in self._digests:
            raise InputError(
                "an image to verify with is among those for calibration: a file must be judged by images that had no "
                "part in making it; give another folder or split"
            )

    def to_dict(self):
        """For the card: {"data", "images", "sha256" of the images' own hashes in order}."""
        together = hashlib.sha256("".join(self._digests).encode()).hexdigest()
        return {"data": str(self.data), "images": len(self.images), "sha256": together}


def check_image(image, argument):
    """Raise InputError unless `image` is numbers [H, W, 3]."""
    try:
        array = np.asarray(image)
    except ValueError:  # of parts that do not fit together, such as (image, label)
        array = np.asarray(None)
    if array.dtype.kind not in "uif" or array.ndim != 3 or array.shape[-1] != 3 or not array.size:
        told = f"{array.dtype} {array.shape}" if array.ndim else type(image).__name__
        raise InputError(f"an image of `{argument}` must be uint8 or float [H, W, 3] in 0..255. Received: {told}")


def digest(image):
    """sha256 of an image's shape, type and pixels, in hexadecimal."""
    image = np.ascontiguousarray(image)
    return hashlib.sha256(f"{image.shape}{image.dtype}".encode() + image.tobytes()).hexdigest()


def calibrate(data, split, most, skip_bad=False):
    """A Calibration of at most `most` images of a split, see `choose`; without masks, of evenly spaced ones.

    Args:
        data: what `kseg.data.open_source` takes, or a folder of images alone, of which `split` is not used.
        skip_bad: look through all of it first, and leave out what cannot be read.
    Raises:
        InputError: there is no such data, or no image in it, or one cannot be read.
    """
    images = _photos(data, most, skip_bad) or tuple(choose(_opened(data, split, skip_bad), most))
    return Calibration(images, data_name(data, split))


def verification(data, split, most, labels, skip_bad=False):
    """At most `most` images of a split to prove a file with, spread evenly.

    Args:
        data: what `kseg.data.open_source` takes, or a folder of images alone, of which `split` is not used.
        labels: LabelSet of the network.
        skip_bad: look through all of it first, and leave out what cannot be read.
    Returns:
        [(image uint8 [H, W, 3], label int [H, W])]; None in place of the labels where there are none, or the data has
        other classes, which would give a mean IoU without meaning.
    Raises:
        InputError: there is no such data, or no image in it, or one cannot be read.
    """
    if photos := _photos(data, most, skip_bad):
        return [(image, None) for image in photos]
    source = _opened(data, split, skip_bad)
    same = source.labels.names == labels.names
    return [(image, label if same else None) for image, label in spread(source, most)]


def bundled(labels):
    """The name of the images that come with kseg and that a network of these labels can be proven on.

    Raises:
        InputError: it tells other classes apart, so its scores on those images would prove little.
    """
    if labels.names != nuclei("val").labels.names:
        raise InputError(
            f"a file for {', '.join(labels.names[:5])}{', ...' if len(labels) > 5 else ''} has to be proven on images "
            "such as it will see, with or without masks: name some (--verify DATA)"
        )
    return "nuclei"


def data_name(data, split):
    """What a card says of the images that `calibrate` and `verification` take."""
    return str(data) if plain_images(data) else f"{data} {split}"


def _photos(data, most, skip_bad):
    """At most `most` images of a folder without masks, spread evenly: tuple of uint8 [h, w, 3]."""
    paths = plain_images(data)
    if skip_bad and paths and not (paths := [path for path in paths if _is_readable(path)]):
        raise InputError(f"{data}: none of its images can be read")
    return tuple(read_image(paths[place]) for place in spaced(len(paths), most))


def _is_readable(path):
    try:
        read_image(path)
    except InputError:
        return False
    return True


def _opened(data, split, skip_bad):
    source = open_source(data, split)
    return checked(source, skip_bad=True) if skip_bad else source


def choose(source, most):
    """At most `most` images of a data source, spread over it and over its classes; the same ones every time.

    Of four times as many, evenly spaced, those are taken first that show the classes seen least so far.

    Args:
        source: of kseg.data, with `names`, `labels` and `load(index) -> (image, label)`.
    Returns:
        list of images, uint8 [h, w, 3].
    """
    pairs, classes = spread(source, 4 * most), len(source.labels)
    shows = [np.isin(np.arange(classes), label) for _, label in pairs]
    seen, chosen = np.zeros(classes), []
    while len(chosen) < min(most, len(pairs)):
        rest = [place for place in range(len(pairs)) if place not in chosen]
        best = max(rest, key=lambda place: (float((shows[place] / (1 + seen) ** 2).sum()), -place))
        chosen.append(best)
        seen += shows[best]
    return [pairs[place][0] for place in sorted(chosen)]
