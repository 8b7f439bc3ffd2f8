"""What the tests of the clients share: images, files, and what to do where a client cannot be had."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

NUCLEI = ROOT / "kseg" / "data" / "bundled" / "nuclei"
SIZE = (192, 256)  # height and width differ: a swap must not pass


def unavailable(reason):
    """Skip the test, or let it fail where the clients are required."""
    (pytest.fail if os.environ.get("KSEG_CLIENTS") == "required" else pytest.skip)(reason)


def made(folder, wanted, make):
    """Make a folder outside the tests' own, once for each `wanted` (bytes): `make()` fills it, or says why it cannot.

    Args:
        folder: Path, kept from one run of the tests to the next.
        wanted: what it is made from, such as the list of packages.
        make: function () -> None, or a subprocess.CompletedProcess that failed.
    """
    done, wanted = folder / ".installed", hashlib.sha256(wanted).hexdigest()
    if done.exists() and done.read_text() == wanted:
        return
    if failed := make():
        lines = failed.stderr.strip().splitlines() or ["no reason given"]
        unavailable(f"{folder.name} cannot be made: {lines[-1]}")
    done.write_text(wanted)


def nuclei(split, count):
    """The first images of a split at the files' size, so that neither side has to resize: uint8 [N, H, W, 3]."""
    paths = sorted((NUCLEI / "images" / split).iterdir())[:count]
    return np.stack([np.asarray(Image.open(path).convert("RGB").resize(SIZE[::-1])) for path in paths])


def export_nuclei(path: Path, network, labels, **options):
    """Export as `kseg.export` does, proven on the bundled nuclei; returns `path`."""
    from kseg.export import export

    export(
        network,
        labels,
        path,
        format=path.suffix[1:],
        size_px=None if options.get("resizable") else SIZE,
        verification=[(image, None) for image in nuclei("val", 3)],
        calibration=list(nuclei("train", 8)),
        **options,
    )
    return path
