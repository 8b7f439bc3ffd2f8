"""The check of every sample before training starts."""

import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from kseg.data.backend import tensorflow
from kseg.data.sources import Subset, foreign_indices, index_counts
from kseg.errors import InputError, one_line


@dataclass(frozen=True)
class ScanReport:
    """What a scan found.

    Attributes:
        samples: number of samples looked at.
        problems: tuple of (file, message), in the order of the samples; empty if all is well.
        bad: frozenset of the indices of the samples that have a problem.
        inexact_pixels: pixels of good colour masks that were given the nearest colour, not exactly theirs.
        class_pixels: tuple of the number of pixels of each class, over the good samples.
        class_images: tuple of the number of good samples in which each class occurs.
        ignored_pixels: pixels with the ignore index, over the good samples.
    """

    samples: int
    problems: tuple
    bad: frozenset
    inexact_pixels: int
    class_pixels: tuple
    class_images: tuple
    ignored_pixels: int


def scan(source, progress=True, threads=None):
    """Read every image and mask of a source completely, in parallel.

    A sample is good if both files exist and decode to the end, have the same size, and the mask holds no index
    outside the label set.

    Args:
        source: a source.
        progress: show a bar on stderr, where that is a terminal.
        threads: number of threads; by default what `concurrent.futures` takes for this machine.
    Returns:
        ScanReport with all problems.
    """
    pool = ThreadPoolExecutor(threads)
    try:
        results = pool.map(lambda index: _examine(source, index), range(len(source)))
        results = list(_shown(results, len(source), progress))
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt need not wait for the files that are left
    problems, bad = [], []
    pixels, images, inexact = Counter(), Counter(), 0
    for index, (found, counts, inexact_here) in enumerate(results):
        if found:
            problems.extend(found)
            bad.append(index)
        else:
            pixels.update(counts)
            images.update(set(counts))
            inexact += inexact_here
    return ScanReport(
        samples=len(source),
        problems=(*problems, *source.orphans),
        bad=frozenset(bad),
        inexact_pixels=inexact,
        class_pixels=tuple(pixels[i] for i in range(len(source.labels))),
        class_images=tuple(images[i] for i in range(len(source.labels))),
        ignored_pixels=pixels[source.labels.ignore],
    )


def without(source, report):
    """The source without the samples that have a problem.

    Raises:
        InputError: no sample is left.
    """
    kept = [index for index in range(len(source)) if index not in report.bad]
    if not kept:
        raise InputError(f"none of the {len(source)} images is left: all have problems")
    return Subset(source, kept)


def checked(source, skip_bad=False, log=print):
    """`all_checked` of one source."""
    (source,) = all_checked([source], skip_bad, log)
    return source


def all_checked(sources, skip_bad=False, log=print):
    """Sources after their scan; every problem of any of them is a line.

    Args:
        sources: sequence of sources, the one to learn from first.
        skip_bad: leave out the samples that have problems.
        log: called with each line for the user.
    Returns:
        list of sources.
    Raises:
        InputError: there are problems, and they are not to be left out; or no pixel of a source is labelled.
    """
    reports = [scan(source) for source in sources]
    if inexact := sum(report.inexact_pixels for report in reports):
        log(f"{inexact} mask pixels had no colour of the label set; the nearest one counts")
    if (told := tell_problems(reports)) and not skip_bad:
        raise InputError(f"{told}; mend them, or leave these images out (--skip-bad; skip_bad=True)")
    if absent := absent_classes(sources[0].labels, reports[0]):
        log(absent)
    return [_good(source, report, log) for source, report in zip(sources, reports, strict=True)]


def absent_classes(labels, report):
    """A line that names the classes of which a scan found no pixel, or "".

    Where masks of 0 and 255 are read with 255 as the ignore index, that is the class which they are made for.
    """
    absent = [name for name, pixels in zip(labels.names, report.class_pixels, strict=True) if not pixels]
    if not absent or not any(report.class_pixels):
        return ""
    share = report.ignored_pixels / (sum(report.class_pixels) + report.ignored_pixels)
    named = f"{', '.join(absent[:10])}{', ...' if len(absent) > 10 else ''}"
    why = f"; {share:.0%} are unlabelled (ignore {labels.ignore}): is that right?" if share > 0.05 else ""
    return f"No pixel of the {report.samples} masks is of the class {named}, which cannot be learned from them{why}"


def tell_problems(reports):
    """Print every problem once, a line each, on stderr; returns how many, as "3 problems in the data", or ""."""
    problems = dict.fromkeys(problem for report in reports for problem in report.problems)
    for file, message in problems:
        print(f"{file}: {message}", file=sys.stderr)
    return f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in the data" if problems else ""


def _good(source, report, log):
    kept = without(source, report) if report.bad else source
    if report.bad:
        log(f"Left out {len(report.bad)} of {len(source)} images")
    if not any(report.class_pixels):
        raise InputError(
            f"none of the {len(kept)} images has a labelled pixel, such as {kept.files(0)[1]}: there is nothing to "
            f"learn from or to score"
        )
    return kept


@contextmanager
def naming_bad_files(source):
    """Around training and evaluation: when they fail on a file that is bad, or changed since the scan, say which.

    Neither TensorFlow's decoders name the file, nor the metrics that meet an index outside the label set. On their
    errors the source is scanned again, and then read by those decoders, which refuse some files that Pillow reads.

    Raises:
        InputError: instead of the tf.errors.OpError or ValueError, if the scan finds a problem.
    """
    errors = tensorflow().errors
    try:
        yield
    except InputError:
        raise
    except (
        ValueError,
        errors.InvalidArgumentError,
        errors.NotFoundError,
        errors.UnknownError,
        errors.DataLossError,
    ) as error:
        problems = scan(source, progress=False).problems or list(_undecodable(source))
        if not problems:
            raise
        file, message = problems[0]
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise InputError(f"{file}: {message}{more}; mend it, or leave such images out (--skip-bad)") from error


def _undecodable(source):
    """(file, message) of each sample that TensorFlow cannot decode."""
    tf = tensorflow()
    read = tf.function(source.read)  # as in tf.data; called eagerly, Pillow's reader would get other paths
    for index in range(len(source)):
        try:
            read(tf.constant(index, tf.int64))
        except tf.errors.OpError as error:
            yield source.files(index)[0], f"TensorFlow cannot decode it or its mask; save both anew ({one_line(error)})"


def _examine(source, index):
    """(list of (file, message), dict index -> pixels, inexact pixels) of one sample."""
    files = source.files(index)
    problems = []
    image = label = None
    inexact = 0
    try:
        image = source.load_image(index)
    except InputError as error:
        problems.append(_split(error, files))
    try:
        label, inexact = source.load_label(index)
    except InputError as error:
        problems.append(_split(error, files))
    if label is None:
        return problems, {}, 0
    if image is not None and image.shape[:2] != label.shape:
        problems.append(_split(source.size_message(index, image.shape, label.shape), files))
    counts = index_counts(label)
    if message := foreign_indices(counts, source.labels):
        problems.append((files[1], message))
    return problems, counts, inexact


def _split(error, files):
    """An error "FILE: message" -> (FILE, message)."""
    text = str(error)
    for file in files:
        if text.startswith(f"{file}: "):
            return file, text.removeprefix(f"{file}: ")
    return files[0], text


def _shown(results, total, progress):
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(results, "Checking images", total, console=console, disable=not (progress and console.is_terminal))
