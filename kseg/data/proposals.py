"""A first labels.json for masks that come without one: guessed from what they hold, for their owner to name."""

from collections import Counter

import numpy as np

from kseg.data.files import read_contents
from kseg.data.sources import index_counts
from kseg.errors import InputError
from kseg.labels import VOID_COLOUR, LabelSet, voc_colour

_IGNORE = 255
# A colour is a class if so much of all pixels lies inside areas of it, and so much of itself: what lies at edges that
# were drawn smoothly does not.
_SHARE, _INSIDE = 1e-4, 0.2
# Where there are more colours than that, or JPEG has changed them, those near to a more frequent one are the same.
_EXACT, _DISTANCE = 256, 60.0
_MOST = 256


def propose_labels(masks, progress=iter):
    """The label set that mask files suggest.

    Grey and palette files hold indices: their classes reach to the greatest one, but for a lone 255, which marks
    unlabelled pixels; of 16 bits and far apart, they are those that occur. Grey files of a few values far apart, such
    as 0 and 255, and files of colours hold a colour a class: those that fill areas.

    Args:
        masks: paths of all mask files.
        progress: function that wraps the iterator over them.
    Returns:
        LabelSet, whose classes are called "class_0", "class_1", ..., or "background" and "foreground" if two colours
        are black and white.
    Raises:
        InputError: no masks, one that cannot be read, one class alone, or more than there can be in masks (256).
    """
    seen = _Seen()
    problems = []
    for path in progress(masks):
        try:
            seen.add(*read_contents(path))
        except InputError as error:
            problems.append(str(error))
    if problems:
        more = f" (and {len(problems) - 1} more masks that cannot be read)" if len(problems) > 1 else ""
        raise InputError(problems[0] + more)
    if not seen.colours:
        raise InputError("there are no masks to guess the classes from")
    colours, ignore, masks, values = _indexed(seen) if seen.are_indices() else (*_coloured(seen), None)
    if len(colours) < 2:
        few = ", ".join("#{:02x}{:02x}{:02x}".format(*colour) for colour, _ in seen.colours.most_common(5))
        raise InputError(
            f"the masks show one class alone (colours: {few}{', ...' if len(seen.colours) > 5 else ''}). If they hold "
            f"more: JPEG changes indices, and a channel for transparency is not read; save them as grey or RGB PNG"
        )
    if len(colours) > _MOST:
        raise InputError(f"the masks hold {len(colours)} classes: are they numbers of objects, or photographs?")
    two = masks == "colour" and set(colours) == {(0, 0, 0), (255, 255, 255)}
    names = ("background", "foreground") if two else tuple(f"class_{index}" for index in range(len(colours)))
    return LabelSet(names, colours, ignore, masks, values=values)


class _Seen:
    """What the masks hold together.

    Attributes:
        indices: index -> pixels, of grey and palette files.
        colours: (red, green, blue) -> pixels, as a viewer shows them.
        inside: the same, of pixels whose neighbours to the right and below are like them.
        palette: uint8 [n, 3] of the first file that has one, or None.
        all_indices, lossy: whether all files hold indices; whether one is a JPEG.
        alike: whether each index has one colour in all files with a palette that use it.
    """

    def __init__(self):
        self.indices, self.colours, self.inside = Counter(), Counter(), Counter()
        self.palette, self.all_indices, self.lossy = None, True, False
        self.alike, self._colour_of = True, {}

    def add(self, contents, palette, exact):
        if contents.ndim == 2:
            self.indices.update(index_counts(contents))
            if palette is not None and not _is_grey(palette):
                self.palette = palette if self.palette is None else self.palette
                used = np.unique(contents)
                for index, colour in zip(used.tolist(), _drawn(used, palette).tolist(), strict=True):
                    self.alike &= self._colour_of.setdefault(index, colour) == colour
            contents = _drawn(contents, palette)
        else:
            self.all_indices = False
        packed = contents.astype(np.int32) @ np.array([65536, 256, 1])
        corner = packed[:-1, :-1]
        inside = corner[(corner == packed[:-1, 1:]) & (corner == packed[1:, :-1])]
        self.colours.update(_counts(packed))
        self.inside.update(_counts(inside))
        self.lossy |= not exact

    def are_indices(self):
        """Whether all is numbers that lie as close together as those of classes do, of which a few may be absent.

        Palettes that differ are no classes' numbers: a program chose them anew for each file, by its colours.
        """
        values = sorted(set(self.indices) - {_IGNORE})
        if not values or not self.all_indices or not self.alike or set(self.indices) == {0, _IGNORE}:
            return False
        return _are_close(values) or (values[-1] > 255 and len(values) > 2)


def _indexed(seen):
    """(colours of the classes, ignore, "index", values)."""
    if not _are_close(values := sorted(set(seen.indices) - {_IGNORE})):
        values = sorted(seen.indices)
        return [voc_colour(index % 256) for index in range(len(values))], None, "index", values
    top = max(seen.indices)
    ignore = _IGNORE if top == _IGNORE and _IGNORE - 1 not in seen.indices else None
    classes = range(1 + max(index for index in seen.indices if index != ignore))
    if seen.palette is None:
        return [voc_colour(index) for index in classes], ignore, "index", None
    return _drawn(np.array(classes), seen.palette).tolist(), ignore, "index", None


def _are_close(values):
    """Whether sorted numbers are those of classes, of which a few may be absent."""
    return values[-1] < 2 * len(values) + 4


def _coloured(seen):
    """(colours of the classes, ignore, "colour"): the most frequent first, but black, being a background, before it."""
    least, exact = _SHARE * sum(seen.colours.values()), not seen.lossy and len(seen.colours) <= _EXACT
    kept = []
    for colour, pixels in seen.inside.most_common():
        if pixels < least:
            break
        near = not exact and any(np.linalg.norm(np.subtract(colour, other)) < _DISTANCE for other in kept)
        edge = not seen.lossy and pixels < _INSIDE * seen.colours[colour]
        if not near and not edge:
            kept.append(colour)
    ignore = _IGNORE if VOID_COLOUR in kept else None
    return sorted((colour for colour in kept if colour != VOID_COLOUR), key=any), ignore, "colour"


def _is_grey(palette):
    """Whether a palette only counts up from black, as some programs write for grey."""
    return (palette == np.arange(len(palette))[:, None]).all()


def _drawn(indices, palette):
    """Integers [...] -> uint8 [..., 3]: the colours that a viewer shows for pixels of a grey or palette file."""
    table = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    if palette is not None:
        table[: len(palette)] = palette
    return table[np.minimum(indices, 255)]


def _counts(packed):
    """(red, green, blue) -> pixels."""
    values, pixels = np.unique(packed, return_counts=True)
    rgb = np.stack([values >> 16, (values >> 8) & 255, values & 255], axis=-1)
    return dict(zip(map(tuple, rgb.tolist()), pixels.tolist(), strict=True))
