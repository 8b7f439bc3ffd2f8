"""Files that are either whole or not there: written beside, flushed to the disk, then renamed."""

import errno
import hashlib
import json
import logging
import math
import os
from contextlib import contextmanager, suppress
from pathlib import Path

from kseg.errors import InputError

log = logging.getLogger("kseg")

_LONGEST_NAME = 255  # bytes, on the usual file systems


@contextmanager
def replacing(path):
    """Give a temporary path beside `path`; when the block ends well, it takes the place of `path` in one step.

    A kill at any moment leaves the old file or the new one, never a part; an exception leaves the old one and
    removes the temporary file. The temporary name keeps the suffix, because Keras looks at it.

    Args:
        path: where the finished file shall be; its folder must exist.
    Yields:
        Path to write to.
    Raises:
        InputError: the disk is full, or there can be no such file.
    """
    path = Path(path)
    temporary = path.with_name(f".tmp-{path.name}")
    if len(os.fsencode(temporary.name)) > _LONGEST_NAME:
        short = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
        temporary = path.with_name(f".tmp-{short}{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if is_disk_full(error):
            raise InputError(f"{path}: no space left on the disk; nothing was changed") from error
        if isinstance(error, OSError) and error.filename in (str(path), str(temporary)):
            raise InputError(f"{path}: cannot be written: {error.strerror}") from error
        raise


@contextmanager
def held(path, what):
    """Keep a file, and what it stands for, from other processes that ask; a kill lets go of it.

    Where there are no such locks (Windows, some network file systems), nothing is kept from anyone.

    Args:
        path: an existing file.
        what: the message if another process holds it.
    Raises:
        InputError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{path}: {what}") from error
        except OSError as error:
            log.debug("%s: cannot be locked (%s)", path, error)
        yield


def read_text(path):
    """The text of a file that a user named or wrote.

    Raises:
        InputError: there is none, or it is not in UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")  # some editors put a mark in front
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: a folder, not a file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file in UTF-8; save it as such") from error


def write_json(value, path):
    """Write plain lists, dicts and numbers as JSON, with `replacing`; numbers that are not finite become null, which
    JSON has instead.

    Raises:
        InputError: the disk is full.
    """
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_finite(value), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_disk_full(error):
    """Whether an exception means that the disk is full, or one of its causes does.

    HDF5 reports it in the text of an OSError or RuntimeError of its own, often from a clean-up that follows.
    """
    while error is not None:
        if getattr(error, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
