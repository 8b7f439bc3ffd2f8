"""What went wrong, said to the person who can mend it."""

import importlib
import re


class InputError(ValueError):
    """A mistake in what the user gave (a file, a folder, an argument), told in one line.

    The tools print such an error without a traceback and exit with 2. Every other exception is a fault of kseg
    and keeps its traceback.
    """


class CheckError(Exception):
    """A result that did not pass its check and was therefore not written, told in one line.

    The tools print it without a traceback and exit with 1.
    """


def one_line(error):
    """What an exception is and says, in one line of at most 200 characters, without TensorFlow's marks of colour and of
    nodes."""
    said = re.sub(r"\x1b\[[0-9;]*m|\{\{.*?\}\}", "", str(error)).partition("Detected at node")[0]
    return " ".join(f"{type(error).__name__}: {said}".split())[:200]


def need(module, extra):
    """Import and return `module`, which comes with the optional dependencies `kseg[extra]`.

    Args:
        module: dotted name, such as "tensorflow".
        extra: name of the extra in setup.py, such as "cpu".
    Raises:
        ImportError: the module is not installed; the message names the extra and the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{module} is not installed. It comes with kseg[{extra}]: in kseg's folder, pip install '.[{extra}]'"
        ) from error
