"""The files with ImageNet weights that Keras publishes, and where to find them."""

import hashlib
import os
import socket
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import keras

from kseg.errors import InputError

_BASE = "https://storage.googleapis.com/tensorflow/keras-applications"
_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Published:
    """A file with ImageNet weights that Keras publishes.

    Attributes:
        file: its name.
        url: its address.
        md5: as Keras publishes it, or None where Keras gives none.
    """

    file: str
    url: str
    md5: str | None


def _vgg16(ending, md5):
    file = f"vgg16_weights_tf_dim_ordering_tf_kernels{ending}.h5"
    return Published(file, f"{_BASE}/vgg16/{file}", md5)


VGG16 = _vgg16("_notop", "6d6bbae143d832006294945121d1f1fc")
VGG16_TOP = _vgg16("", "64373286793e3c8b2b4e3219cbf3544b")


MOBILENET_V2_WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)


def mobilenet_v2_file(alpha):
    """Keras's file for MobileNetV2 of this width, trained on images of 224 x 224; it comes without a hash."""
    file = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{float(alpha)}_224_no_top.h5"
    return Published(file, f"{_BASE}/mobilenet_v2/{file}", None)


def find_weights(source, published):
    """Return the Path of a weights file.

    Args:
        source: "imagenet", or a path.
        published: the Published file that "imagenet" stands for. It is looked for in the folder that KSEG_WEIGHTS_DIR
            names, then in Keras's cache, then downloaded into that cache.
    Raises:
        InputError: there is no such file, or it can be neither found nor downloaded; the message says what is wanted
            and how to supply it.
    """
    if source != "imagenet":
        if not Path(source).is_file():
            raise InputError(f"{source}: no such weights file")
        return Path(source)
    return at_hand(published) or _download(published)


def at_hand(published):
    """The Path of the file on this machine, or None. In Keras's cache only a file with the published hash counts."""
    folder = os.environ.get("KSEG_WEIGHTS_DIR")
    if folder and (given := Path(folder, published.file)).is_file():
        return given  # the user's own choice, which need not be the published one
    cached = keras_cache() / published.file
    return cached if cached.is_file() and _is_whole(cached, published) else None


def keras_cache():
    """The folder in which Keras keeps published weights."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras", "models")


def _is_whole(path, published):
    if published.md5 is None:
        return True
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest() == published.md5


def _download(published):
    cache = keras_cache()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Not into the cache itself: what is broken off, or has a wrong hash, would be taken for good the next time.
        with tempfile.TemporaryDirectory(prefix=".downloading-", dir=cache) as folder, _timeout(_TIMEOUT_S):
            file = keras.utils.get_file(
                published.file, published.url, cache_dir=folder, cache_subdir="", file_hash=published.md5
            )
            os.replace(file, cache / published.file)
        return cache / published.file
    except Exception as error:  # Keras raises a bare Exception where it has no connection
        checksum = f"md5 {published.md5}" if published.md5 else "Keras publishes no hash of it"
        reason = " ".join(str(error).rsplit(" -- ")[-1].split())[:160]  # Keras puts the address before the dashes
        raise InputError(
            f"the ImageNet weights {published.file} ({checksum}) could not be downloaded ({reason}). Supply the "
            "file in one of three ways: give its path as `backbone_weights`, "
            f"put it into a folder that KSEG_WEIGHTS_DIR names, or put it into {cache}"
        ) from error


@contextmanager
def _timeout(seconds):
    """For connections opened inside; Keras's download knows no limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
