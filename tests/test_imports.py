"""Imports point one way only: from what comes later in the flow of data to what comes earlier."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# What each part may import of kseg; CONTRIBUTING draws the same picture.
GROUND = {"errors", "files", "labels"}
ALLOWED = {
    "errors": set(),
    "files": {"errors"},
    "labels": {"errors", "files"},
    "runtime": GROUND,
    "data": GROUND,
    "layers": {"errors"},
    "applications": GROUND | {"layers"},
    "lowering": {"errors", "layers"},
    "losses": {"errors"},
    "metrics": {"errors"},
    "training": GROUND | {"data", "layers", "applications", "lowering", "losses", "metrics"},
    "evaluation": GROUND | {"runtime", "data", "layers", "applications", "lowering", "losses", "metrics", "training"},
    "export": GROUND
    | {"runtime", "data", "layers", "applications", "lowering", "losses", "metrics", "training", "evaluation"},
    "cli": {"errors", "files", "runtime"},
    "__main__": {"cli", "errors"},
}


def _imported_parts(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "kseg":
            names = [f"kseg.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names = [node.module]
        else:
            continue
        for name in names:
            if name.startswith("kseg."):
                yield name.split(".")[1]
            assert name.split(".")[0] not in ("tools", "tests"), f"{path} imports {name}"


FILES = sorted(p for p in (ROOT / "kseg").rglob("*.py") if p != ROOT / "kseg" / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_arrows_point_upwards(path):
    part = path.relative_to(ROOT / "kseg").parts[0].removesuffix(".py")
    wrong = {name for name in _imported_parts(path) if name != part and name not in ALLOWED[part]}
    # `from kseg import __version__` names no part.
    assert not wrong - {"__version__"}, f"{part} must not import {sorted(wrong)}"


def test_import_kseg_costs_nothing():
    code = "import sys, kseg; print([m for m in ('numpy', 'keras', 'tensorflow', 'PIL') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_a_missing_extra_is_named():
    code = "import sys; sys.modules['tensorflow'] = None\nfrom kseg.errors import need\nneed('tensorflow', 'cpu')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "kseg[cpu]: in kseg's folder, pip install '.[cpu]'" in done.stderr
