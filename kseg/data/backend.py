"""TensorFlow, asked for where a tensor is made: reading files and scanning do without it."""

from functools import lru_cache

from kseg.errors import need


# Cached, which also keeps AutoGraph from looking for Python's `if` in the import system.
@lru_cache(maxsize=1)
def tensorflow():
    """The module tensorflow.

    Raises:
        ImportError: it is not installed; the message names the extra.
    """
    return need("tensorflow", "cpu")
