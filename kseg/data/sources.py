"""Sources: samples by number, each an image with its label mask.

A source has `labels` (LabelSet), `names` (one per sample) and two readers of sample i that give the same pixels:
`load` for Python, `read` for tf.data.
"""

from pathlib import Path

import numpy as np

from kseg.data import native
from kseg.data.backend import tensorflow
from kseg.data.files import image_size, read_image, read_mask
from kseg.data.transforms import part_of
from kseg.errors import InputError


class Source:
    """What every source has; a subclass gives `labels`, `names`, `load_image` and `load_label`.

    Attributes:
        labels: LabelSet.
        names: tuple of str, one per sample: the image's file name, where it has one.
        orphans: tuple of (file, message): what belongs to no sample, such as a mask without an image. `scan`
            reports these.
    """

    labels = None
    names = ()
    orphans = ()

    def __len__(self):
        """The number of samples."""
        return len(self.names)

    def load_image(self, index):
        """uint8 [H, W, 3]: RGB image `index` (int). Raises InputError, naming the file."""
        raise NotImplementedError

    def load_label(self, index):
        """(int32 [H, W] class indices of image `index`, number of pixels whose colour was not exact)."""
        raise NotImplementedError

    def load(self, index):
        """Sample `index` (int) for use in Python.

        Returns:
            (image uint8 [H, W, 3] in RGB, label int32 [H, W]).
        Raises:
            InputError: a file is missing or damaged, or the two differ in size. Names the file.
        """
        image, (label, _) = self.load_image(index), self.load_label(index)
        if image.shape[:2] != label.shape:
            raise InputError(self.size_message(index, image.shape, label.shape))
        return image, label

    def read(self, index):
        """Sample `index` (int64 scalar tensor) in tf.data: the same as `load`, as tensors."""
        tf = tensorflow()
        image, label = tf.numpy_function(lambda i: self.load(int(i)), [index], (tf.uint8, tf.int32))
        return tf.ensure_shape(image, [None, None, 3]), tf.ensure_shape(label, [None, None])

    def open(self, index):
        """Sample `index` (int64 scalar tensor) in tf.data, of which perhaps only a part is wanted.

        Returns:
            (size int32 [2], function): the function takes a box int32 [4] (top, left, height, width) inside the image,
            or None, and returns that part of what `read` does, the label perhaps as uint8. Some sources decode no
            more than that.
        """
        image, label = self.read(index)

        def read(box=None):
            return (image, label) if box is None else (part_of(image, box), part_of(label, box))

        return tensorflow().shape(label), read

    def files(self, index):
        """(image file, mask file) of a sample, for messages."""
        return self.names[index], f"mask of {self.names[index]}"

    def take(self, indices):
        """Source of these samples (sequence of int), in the given order."""
        return Subset(self, indices)

    def fingerprint(self, index):
        """Text that changes when the sample may have changed: what a cache on disk goes by."""
        return self.names[index]

    def size(self, index):
        """(height, width) of image `index` in pixels, if that is cheap to know, else None."""
        return None

    def size_message(self, index, image_shape, label_shape):
        """The message for a mask of another size than its image."""
        (height, width), (mask_height, mask_width) = image_shape[:2], label_shape[:2]
        image, mask = self.files(index)
        said = f"{mask}: {mask_height}x{mask_width} pixels (height x width), but the image {image} has {height}x{width}"
        if (mask_height, mask_width) == (width, height):
            said += "; if that is the image's EXIF orientation, by which kseg turns images upright, turn the mask, too"
        return said


class FileSource(Source):
    """Image files with mask files.

    Args:
        labels: LabelSet; its `masks` says how the mask files hold the classes.
        images: paths of the images.
        masks: paths of their masks.
        orphans: see Source.
    """

    def __init__(self, labels, images, masks, orphans=()):
        if len(images) != len(masks):
            raise ValueError(f"`masks` must have one path an image. Received: {len(images)} images, {len(masks)} masks")
        self.labels = labels
        self.names = tuple(Path(image).name for image in images)
        self.orphans = tuple(orphans)
        self._images = tuple(str(image) for image in images)
        self._masks = tuple(str(mask) for mask in masks)
        self._open = None

    def load_image(self, index):
        return read_image(self._images[index])

    def load_label(self, index):
        if not Path(self._masks[index]).exists():
            raise InputError(f"{self._images[index]}: has no mask; {self._masks[index]} is wanted")
        return read_mask(self._masks[index], self.labels)

    def read(self, index):
        return self.open(index)[1]()

    def open(self, index):
        tf = tensorflow()
        if self._open is None:
            plain = tf.autograph.experimental.do_not_convert
            # The list of files is made outside the graph of the first dataset, so that the next one can use it too.
            with tf.init_scope():
                self._open = plain(plain(native.reader)(self._images, self._masks, self.labels))
        return self._open(index)

    def files(self, index):
        return self._images[index], self._masks[index]

    def take(self, indices):
        images, masks = ([paths[i] for i in indices] for paths in (self._images, self._masks))
        return FileSource(self.labels, images, masks, self.orphans)

    def fingerprint(self, index):
        files = [Path(path) for path in self.files(index)]
        states = [(s.st_size, s.st_mtime_ns) for s in (path.stat() for path in files if path.exists())]
        return repr([[str(path.resolve()) for path in files], states, self.labels.to_dict()])

    def size(self, index):
        return image_size(self._images[index])


class _View(Source):
    """Samples of other sources; a subclass says with `_find` whose sample `index` is, and which."""

    def _find(self, index):
        """(source, index in it)."""
        raise NotImplementedError

    def load_image(self, index):
        source, index = self._find(index)
        return source.load_image(index)

    def load_label(self, index):
        source, index = self._find(index)
        return source.load_label(index)

    def load(self, index):
        source, index = self._find(index)
        return source.load(index)

    def files(self, index):
        source, index = self._find(index)
        return source.files(index)

    def fingerprint(self, index):
        source, index = self._find(index)
        return source.fingerprint(index)

    def size(self, index):
        source, index = self._find(index)
        return source.size(index)


class Subset(_View):
    """Some samples of another source, in the given order.

    Args:
        source: the other source.
        indices: sequence of int.
    """

    def __init__(self, source, indices):
        self.labels = source.labels
        self.names = tuple(source.names[i] for i in indices)
        self._source = source
        self._indices = tuple(int(i) for i in indices)

    def _find(self, index):
        return self._source, self._indices[index]

    def read(self, index):
        tf = tensorflow()
        return self._source.read(tf.gather(tf.constant(self._indices, tf.int64), index))

    def open(self, index):
        tf = tensorflow()
        return self._source.open(tf.gather(tf.constant(self._indices, tf.int64), index))


class Joined(_View):
    """The samples of several sources, one source after the other.

    Args:
        sources: sequence of sources with one label set.
    Raises:
        InputError: their label sets differ.
    """

    def __init__(self, sources):
        self.labels = sources[0].labels
        if any(source.labels != self.labels for source in sources):
            raise InputError("sources with different label sets cannot be joined")
        self.names = tuple(name for source in sources for name in source.names)
        # Once, also where several are parts of one split.
        self.orphans = tuple(dict.fromkeys(orphan for source in sources for orphan in source.orphans))
        self._sources = tuple(sources)
        self._starts = np.cumsum([0, *(len(source) for source in sources)])

    def _find(self, index):
        place = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._sources[place], index - int(self._starts[place])

    def read(self, index):
        tf = tensorflow()
        place = tf.searchsorted(tf.constant(self._starts), [index], side="right")[0] - 1
        branches = [
            lambda source=source, start=int(start): source.read(index - start)
            for source, start in zip(self._sources, self._starts[:-1], strict=True)
        ]
        return tf.switch_case(place, branches)


def join(sources):
    """One source of the samples of several; see `Joined`. Files stay files, of which training reads parts."""
    if len(sources) == 1:
        return sources[0]
    joined = Joined(sources)
    if not all(type(source) is FileSource for source in sources):
        return joined
    pairs = [joined.files(index) for index in range(len(joined))]
    return FileSource(joined.labels, *zip(*pairs, strict=True), joined.orphans)


def index_counts(label):
    """Index -> number of pixels (dict of int), for an integer mask [H, W]."""
    low, high = int(label.min()), int(label.max())
    if high - low < 1 << 16:
        counts = np.bincount((label - low).reshape(-1))
        values = np.flatnonzero(counts)
        return dict(zip((values + low).tolist(), counts[values].tolist(), strict=True))
    values, counts = np.unique(label, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def foreign_indices(counts, labels):
    """What is wrong with the indices of a mask, or None.

    Args:
        counts: index -> pixels, see `index_counts`.
        labels: LabelSet.
    """
    foreign = [i for i in counts if not 0 <= i < len(labels) and i != labels.ignore]
    if not foreign:
        return None
    # What `LabelSet.from_values` does not know.
    found = ", ".join(f"{i if labels.values is None else -1 - i} ({counts[i]} pixels)" for i in foreign[:5])
    more = ", ..." if len(foreign) > 5 else ""
    if labels.values is not None:
        return f'number {found}{more} neither among the "values" of labels.json nor its "ignore"'
    ignore = "no ignore index" if labels.ignore is None else f"ignore index {labels.ignore}"
    message = f"index {found}{more} outside the label set (classes 0 to {len(labels) - 1}, {ignore})"
    if len(labels) == 2 and set(counts) <= {0, 255}:
        return (
            f'{message}; if 255 is class 1: "masks": "colour", "colours": [[0, 0, 0], [255, 255, 255]] in labels.json'
        )
    return f'{message}; see "values" in labels.json'


def spread(source, most):
    """At most `most` samples, spread evenly over a source: [(image uint8 [H, W, 3], label int [H, W])].

    Raises:
        InputError: the source is empty, or a file of it cannot be read.
    """
    if not len(source.names):
        raise InputError("the data holds no image")
    return [source.load(place) for place in spaced(len(source.names), most)]


def spaced(total, most):
    """At most `most` of the numbers 0 .. total - 1, spread evenly: list of int."""
    count = min(most, total)
    return [place * total // count for place in range(count)]
