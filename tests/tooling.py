"""A way to call a tool as a user does, and settings that train a network in seconds."""

import importlib.util
from pathlib import Path

TOOLS = Path(__file__).resolve().parent.parent / "tools"
TINY = [
    f"--set={setting}"
    for setting in (
        "filters=4",
        "depth=2",
        "crop_px=32,32",
        "batch=2",
        "repeats=8",
        "epochs=2",
        "precision=float32",
        "learning_rate=0.01",
        "validate_every=1",
    )
]


def tool(name):
    """`main` of tools/NAME.py."""
    spec = importlib.util.spec_from_file_location(f"tool_{name}", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main
