"""Sources that decode each file once."""

import hashlib
import io
import os
import threading
from pathlib import Path

import numpy as np

from kseg.data.sources import Source
from kseg.errors import InputError
from kseg.files import replacing


def cached(source, where):
    """A source that keeps what it has decoded.

    Args:
        source: a source.
        where: "memory" (an image takes 4 bytes a pixel with up to 256 indices, 5 beyond), or a folder, which is made
            where needed: one file a sample, written anew when the image or its mask has changed.
    Returns:
        Source with the same samples.
    """
    return _Memory(source) if where == "memory" else _Folder(source, Path(where))


class _Cache(Source):
    def __init__(self, source):
        self.labels, self.names, self.orphans = source.labels, source.names, source.orphans
        self._source = source

    def load_image(self, index):
        return self.load(index)[0]

    def load_label(self, index):
        # A cache does not keep how many colours were not exact: the scan reads the files themselves.
        return self.load(index)[1], 0

    def load(self, index):
        image, label = self._kept(index)
        return image, label.astype(np.int32)

    def files(self, index):
        return self._source.files(index)

    def fingerprint(self, index):
        return self._source.fingerprint(index)

    def size(self, index):
        return self._source.size(index)

    def _decoded(self, index):
        image, label = self._source.load(index)
        return image, label.astype(np.min_scalar_type(int(label.max(initial=0))))


class _Memory(_Cache):
    def __init__(self, source):
        super().__init__(source)
        self._samples = {}

    def _kept(self, index):
        # Two threads may decode the same sample at once; both get the same pixels.
        if index not in self._samples:
            image, label = self._decoded(index)
            # `load` hands out the kept array itself: nobody shall draw in it. A view, since it may be the caller's own.
            image = image.view()
            image.flags.writeable = False
            self._samples[index] = image, label
        return self._samples[index]


class _Folder(_Cache):
    def __init__(self, source, folder):
        super().__init__(source)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: no folder for a cache can be made here ({error.strerror})") from error
        self._folder = folder

    def _kept(self, index):
        key = hashlib.sha256(self._source.fingerprint(index).encode()).hexdigest()[:24]
        path = self._folder / f"{key}.sample"
        try:
            return _read_sample(path)
        except (FileNotFoundError, ValueError, EOFError):
            pass  # not there yet, or damaged by a crash of the machine
        sample = self._decoded(index)
        _write_sample(path, sample)
        return sample


def _read_sample(path):
    with open(path, "rb") as file:
        return np.load(file), np.load(file)


def _write_sample(path, sample):
    """Two arrays in one file, which is there as a whole or not at all, also if others write it at the same time."""
    content = io.BytesIO()  # np.save straight to a file loses the reason of a failed write
    for array in sample:
        np.save(content, array)
    own = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    with replacing(own) as temporary:
        temporary.write_bytes(content.getbuffer())
    os.replace(own, path)
