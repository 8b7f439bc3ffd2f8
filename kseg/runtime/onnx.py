"""Runs a .onnx file with ONNX Runtime (`kseg[onnx]`), on the CPU."""

import json
from pathlib import Path

import numpy as np

from kseg.errors import InputError, need
from kseg.runtime.agreement import check_agreement

# ONNX Runtime lays the weights of convolutions out anew. An FCN-8s of 538 MB then takes 2.3 GB to load instead of 1.0,
# and twice the time, and runs a tenth faster (0.95 instead of 1.07 s). So the weights of files from this size on stay
# as they are.
_LARGE_BYTES = 2**28

_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16"}  # the others are called as in NumPy


def open_onnx(path, card, threads):
    """Return a function that runs the file.

    It takes an image, float32 [H, W, 3] in 0..255, and returns what the card's output kind says: scores, float32
    [H, W, classes], or labels, int32 [H, W].

    Raises:
        InputError: the file is no ONNX model, is damaged, or is not the network that its card describes. The
            returned function raises it for an image of a size that a resizable network cannot take.
        ImportError: onnxruntime is not installed.
    """
    session = open_session(path, threads)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    check_agreement(path, card, [described(tensor) for tensor in inputs], [described(tensor) for tensor in outputs])
    _check_names(path, card, session.get_modelmeta().custom_metadata_map)
    name, dtype = inputs[0].name, np.dtype(card.input["dtype"])
    result = np.int32 if card.output["kind"] == "labels" else np.float32

    def run(image):
        if dtype.kind == "u":
            image = np.clip(np.rint(image), 0, 255)
        try:
            return session.run(None, {name: image[None].astype(dtype)})[0][0].astype(result, copy=False)
        except Exception as error:
            if card.size_px:
                raise
            height, width = image.shape[:2]
            raise InputError(f"{path}: takes no image of {height} x {width} ({_reason(error)})") from error

    return run


def _check_names(path, card, properties):
    """kseg.export writes the classes into the file, too; one that says nothing of them may have come from elsewhere."""
    try:
        names = json.loads(properties["labels"])["names"]
    except (KeyError, TypeError, ValueError):
        return
    if names != list(card.labels.names):
        said = ", ".join(card.labels.names)
        raise InputError(f"{path}: the card calls its classes {said}; the file itself {', '.join(map(str, names))}")


def open_session(path, threads, profile=None):
    """ONNX Runtime's session of any .onnx file.

    Args:
        path: the file.
        threads: how many it may use.
        profile: what the name of the file begins with that gets the time of each operator; None: no such file.
    Raises:
        InputError: the file is no ONNX model, or is damaged.
        ImportError: onnxruntime is not installed.
    """
    runtime = need("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what goes wrong comes as an exception
    # Its threads would go on spinning after a run, at the cost of whatever runs next. Measured: it loses nothing.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if _size_bytes(path) >= _LARGE_BYTES:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no base class of their own
        raise InputError(
            f"{path}: ONNX Runtime cannot load it: not an ONNX file, or damaged ({_reason(error)})"
        ) from error


def _size_bytes(path):
    """With its weights, where those lie in a file of their own."""
    files = Path(path), Path(f"{path}.data")
    return sum(file.stat().st_size for file in files if file.is_file())


def _reason(error):
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def described(tensor):
    """One of a session's inputs or outputs -> (shape with None for open edges, name of the dtype)."""
    shape = tuple(edge if isinstance(edge, int) else None for edge in tensor.shape)
    return shape, _DTYPES.get(tensor.type, tensor.type.removeprefix("tensor(").removesuffix(")"))
