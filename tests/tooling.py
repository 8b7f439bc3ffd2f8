"""A way to call a tool as a user does, settings that train a network in seconds, and a reader of its logs."""

import importlib.util
import io
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

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
    return module_of(name).main


def module_of(name):
    """tools/NAME.py, imported."""
    spec = importlib.util.spec_from_file_location(f"tool_{name}", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_events(folder):
    """What TensorBoard shows of a folder of event files: tag -> {step: value}; pictures as [H, W, 3]."""
    import tensorflow as tf
    from tensorflow.core.util import event_pb2

    found = defaultdict(dict)
    for path in folder.iterdir():
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = event_pb2.Event.FromString(record)
            for value in event.summary.value:
                array = tf.make_ndarray(value.tensor)
                if array.dtype == object:  # width, height, one PNG file
                    array = np.array(Image.open(io.BytesIO(array[2])))
                found[value.tag][event.step] = array
    return found
