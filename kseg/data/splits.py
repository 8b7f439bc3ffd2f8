"""Parts and sums of splits, in the notation of TensorFlow Datasets: "train[:80%]", "train[100:200]", "train+extra"."""

import re

from kseg.data.sources import join
from kseg.errors import InputError

# What tells a part or a sum of splits from the name of one.
PARTS = frozenset("[]+")
_EDGE = r"(-?\d+%?)?"
_PART = re.compile(rf"([^\[\]+]+)(?:\[{_EDGE}:{_EDGE}\])?")


def open_split(split, open_whole):
    """The source that a split names, which may be a part of one or the sum of several.

    Args:
        split: such as "train", "train[:80%]" or "val+train[62:163]"; or None. Samples count from 0 in the source's
            order, which for files is that of their names; as in Python the second edge is not of the part, and
            negative ones count from the end.
        open_whole: function that opens a split without edges: name or None -> source.
    Raises:
        InputError: the notation is not understood, or a part holds no sample; and what `open_whole` raises.
    """
    if not set(split or "") & PARTS:
        return open_whole(split)
    sources = []
    for text in split.split("+"):
        found = _PART.fullmatch(text.strip())
        if not found:
            raise InputError(f"split {split!r}: not understood; such as train[:80%], train[100:200] or train+extra")
        name, *edges = found.groups()
        whole = open_whole(name)
        first, last = (edge and _position(edge, len(whole), split) for edge in edges)
        indices = range(len(whole))[first:last]
        if not indices:
            raise InputError(f"split {split!r}: {text.strip()} is empty; {name} has {len(whole)} images")
        sources.append(whole if len(indices) == len(whole) else whole.take(indices))
    return join(sources)


def _position(edge, count, split):
    if not edge.endswith("%"):
        return int(edge)
    share = int(edge[:-1])
    if abs(share) > 100:
        raise InputError(f"split {split!r}: {edge} is beyond 100%")
    place = round(count * share / 100)
    return count + place if share < 0 else place  # -1% of 20 images is no image from the end, which -0 is not


def shared(source, other):
    """How many samples of one source the other has, too: by their files."""
    files = {source.files(index)[0] for index in range(len(source))}
    return sum(other.files(index)[0] in files for index in range(len(other)))
