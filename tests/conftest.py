"""Fixtures, and the one list of all networks that the property tests run over."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("KSEG_TEST_DATA", ROOT.parent / "shared"))


def _shared(*parts):
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path.name} is not on this machine (set KSEG_TEST_DATA)")
    return path


@pytest.fixture
def camvid_dir():
    return _shared("data", "camvid")


@pytest.fixture
def clothes_dir():
    return _shared("data", "clothes")


@pytest.fixture
def faces_dir():
    return _shared("data", "faces")


@pytest.fixture
def weights_dir():
    return _shared("weights")
