"""A first labels.json for masks that come without one: guessed from what they hold, for their owner to name."""

from collections import Counter

import numpy as np

from kseg.data.files import read_contents
from kseg.data.sources import index_counts
from kseg.errors import InputError
from kseg.labels import VOID_COLOUR, LabelSet, voc_colour

_IGNORE = 255
# A colour is a class of its own if it covers this share of all pixels and is this far from those that cover more: at
# the edges of what was drawn smoothly, or saved as JPEG, lie others.
_SHARE, _DISTANCE = 5e-4, 60.0
_MOST = 256


def propose_labels(masks, progress=iter):
    """The label set that mask files suggest.

    Grey and palette files hold indices: their classes reach to the greatest one, but for a lone 255, which marks
    unlabelled pixels. Grey files of a few values far apart, such as 0 and 255, and files of colours hold a colour a
    class: those that cover many pixels and are not near to one that covers more.

    Args:
        masks: paths of all mask files.
        progress: function that wraps the iterator over them.
    Returns:
        LabelSet, whose classes are called "class_0", "class_1", ..., or "background" and "foreground" if two colours
        are black and white.
    Raises:
        InputError: no masks, one that cannot be read, or more classes than there can be in masks (256).
    """
    indices, colours, palette = Counter(), Counter(), None
    for path in progress(masks):
        contents, found = read_contents(path)
        if contents.ndim == 3:
            colours.update(_colour_counts(contents))
        else:
            indices.update(index_counts(contents))
            palette = found if palette is None and not _is_grey(found) else palette
    if not indices and not colours:
        raise InputError("there are no masks to guess the classes from")
    if not colours and _are_indices(indices):
        return _indexed(indices, palette)
    for index, pixels in indices.items():
        colours[_drawn(index, palette)] += pixels
    return _coloured(colours)


def _are_indices(counts):
    """Whether numbers lie as close together as those of classes do, of which a few may be absent."""
    values = sorted(set(counts) - {_IGNORE})
    return bool(values) and set(counts) != {0, _IGNORE} and values[-1] < 2 * len(values) + 8


def _indexed(counts, palette):
    top = max(counts)
    ignore = _IGNORE if top == _IGNORE and _IGNORE - 1 not in counts else None
    classes = 1 + max(index for index in counts if index != ignore)
    _check_number(classes)
    colours = [_drawn(index, palette) if palette is not None else voc_colour(index) for index in range(classes)]
    return LabelSet(_names(classes), colours, ignore)


def _coloured(counts):
    """Label set of the colours, the most frequent first; black comes before them, being a background."""
    least = _SHARE * sum(counts.values())
    kept = []
    for colour, pixels in counts.most_common():
        if pixels >= least and all(np.linalg.norm(np.subtract(colour, other)) >= _DISTANCE for other in kept):
            kept.append(colour)
    ignore = _IGNORE if VOID_COLOUR in kept else None
    kept = sorted((colour for colour in kept if colour != VOID_COLOUR), key=any)
    _check_number(len(kept))
    two = set(kept) == {(0, 0, 0), (255, 255, 255)}
    return LabelSet(("background", "foreground") if two else _names(len(kept)), kept, ignore, masks="colour")


def _check_number(classes):
    if classes > _MOST:
        raise InputError(f"the masks hold {classes} classes: are they numbers of objects, or photographs?")


def _names(classes):
    return tuple(f"class_{index}" for index in range(classes))


def _is_grey(palette):
    """Whether a palette only counts up from black, as some programs write for grey."""
    return palette is None or (palette == np.arange(len(palette))[:, None]).all()


def _drawn(index, palette):
    """The colour that a viewer shows for a pixel of a grey or palette file."""
    if palette is not None and index < len(palette):
        return tuple(int(part) for part in palette[index])
    return (min(index, 255),) * 3


def _colour_counts(contents):
    """(red, green, blue) -> pixels."""
    packed = contents.reshape(-1, 3).astype(np.int32) @ np.array([65536, 256, 1])
    values, pixels = np.unique(packed, return_counts=True)
    rgb = np.stack([values >> 16, (values >> 8) & 255, values & 255], axis=-1)
    return dict(zip(map(tuple, rgb.tolist()), pixels.tolist(), strict=True))
