"""How often each class occurs, and the class weights that make up for it."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median

from kseg.data.sources import foreign_indices, index_counts
from kseg.errors import InputError

# Masks decoded ahead: enough for the threads, few enough to keep memory bounded.
_AHEAD = 256


@dataclass(frozen=True)
class ClassFrequencies:
    """Pixels of each class in the masks of a source; unlabelled pixels count nowhere.

    Attributes:
        pixels: tuple of int, the pixels of each class.
        pixels_where_present: tuple of int, for each class the labelled pixels (of all classes) of the images that hold
            at least one pixel of it.
    """

    pixels: tuple
    pixels_where_present: tuple


def class_frequencies(source):
    """Count the pixels of each class, in one pass over the masks.

    Args:
        source: a source. Its masks are read in full size, its images where a mask cannot be had without.
    Returns:
        ClassFrequencies.
    Raises:
        InputError: a mask cannot be read, or holds an index outside the label set. Names the file.
    """
    classes = len(source.labels)
    pixels, where_present = [0] * classes, [0] * classes
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(source), _AHEAD):
            indices = range(start, min(start + _AHEAD, len(source)))
            for counts in pool.map(lambda index: _counts(source, index), indices):
                labelled = sum(counts.values())
                for index, count in counts.items():
                    pixels[index] += count
                    where_present[index] += labelled
    return ClassFrequencies(tuple(pixels), tuple(where_present))


def class_weights(frequencies, how):
    """Weights that let rare classes count more in a loss.

    - "median_frequency": median(f) / f, f being the share of a class in the labelled pixels of the images that hold
      it, and the median that of the classes that occur (Eigen and Fergus 2015).
    - "inverse_log": 1 / ln(1.02 + p), p being its share in all labelled pixels; between 1.4 and 50.5 (Paszke et al.
      2016, ENet).

    A class that does not occur gets 1: no pixel asks for its weight, and as a number among the others it does no harm.

    Args:
        frequencies: ClassFrequencies.
        how: "median_frequency" or "inverse_log".
    Returns:
        Tuple of float, one a class.
    Raises:
        ValueError: `how` is neither.
    """
    if how not in _WAYS:
        raise ValueError(f"`how` must be one of {', '.join(_WAYS)}. Received: {how!r}")
    return _WAYS[how](frequencies)


def _median_frequency(frequencies):
    pairs = zip(frequencies.pixels, frequencies.pixels_where_present, strict=True)
    shares = [count / among if count else None for count, among in pairs]
    present = [share for share in shares if share is not None]
    return tuple(1.0 if share is None else median(present) / share for share in shares)


def _inverse_log(frequencies):
    total = sum(frequencies.pixels)
    return tuple(1.0 / math.log(1.02 + count / total) if count else 1.0 for count in frequencies.pixels)


_WAYS = {"median_frequency": _median_frequency, "inverse_log": _inverse_log}


def _counts(source, index):
    """Class -> labelled pixels of it in one mask."""
    counts = index_counts(source.load_label(index)[0])
    if message := foreign_indices(counts, source.labels):
        raise InputError(f"{source.files(index)[1]}: {message}")
    counts.pop(source.labels.ignore, None)
    return counts
