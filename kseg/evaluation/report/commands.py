"""Commands and settings as they may be shown to others: without the folders of the machine that ran them."""

import re
import shlex
from pathlib import Path


def without_folders(text):
    """A path, or a setting with paths in it (`field=a/b,c/d`), without the folders that lead to them.

    But another run's file, `runs/NAME/best.keras`, stays: its folder tells which network was the start.
    """
    return re.sub(r"(?<![^=,:])(?!runs/)[^=,:]*/(?=[^=,:/])", "", text)


def run_path(path, name):
    """A run's folder as it may be shown: as it is where that is below the current folder, else `runs/NAME`."""
    path = Path(path)
    return f"runs/{name}" if path.is_absolute() or path.parts[:1] in ((), ("..",), ("~",)) else str(path)


def clean_command(command, name):
    """A command line as another machine could have it.

    Args:
        command: as it was typed, with the quotes that a shell needs.
        name: of the run, for an `--out` that tells of the machine (see `run_path`).
    Returns:
        str; of all other paths only the last part is left, of the tool `tools/NAME.py`.
    """
    try:
        words = shlex.split(command)
    except ValueError:  # an open quote
        words = command.split()
    cleaned, out = [], False
    for word in words:
        if out or word.startswith("--out="):
            cleaned.append(f"{'' if out else '--out='}{run_path(word.removeprefix('--out='), name)}")
        else:
            found = re.search(r"tools/\w+\.py$", word)
            bare = found[0] if found else without_folders(word)
            cleaned.append("./nuclei" if bare == "nuclei" != word else bare)  # nuclei alone are those of kseg
        out = word == "--out"
    return shlex.join(cleaned)
