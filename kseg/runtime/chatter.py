"""Native libraries print to the process's own streams, past Python; this keeps a tool's output readable."""

import contextlib
import os
import sys


@contextlib.contextmanager
def muted():
    """While inside, nothing that C++ or Python code prints reaches the terminal. Exceptions pass as they are.

    Works on the file descriptors 1 and 2, so it holds for every thread of the process: keep it around one call.
    """
    saved = []
    _flush()
    try:
        sink = os.open(os.devnull, os.O_WRONLY)
        try:
            for stream in (1, 2):
                with contextlib.suppress(OSError):  # a service may run with a stream closed: nothing to mute there
                    saved.append((stream, os.dup(stream)))
                    os.dup2(sink, stream)
        finally:
            os.close(sink)
        yield
    finally:
        _flush()
        for stream, copy in saved:
            os.dup2(copy, stream)
            os.close(copy)


def _flush():
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
