"""Runs a .tflite file with LiteRT's interpreter (`kseg[tflite]`), on the CPU through XNNPACK."""

import numpy as np

from kseg.errors import InputError, need
from kseg.runtime.chatter import muted


def open_tflite(path, card, threads):
    """Return a function float32 [H, W, 3] in 0..255 -> float32 [H, W, classes] that runs the file.

    Raises:
        InputError: the file is no TFLite model, is damaged, or is not the network that its card describes.
        ImportError: ai-edge-litert is not installed.
    """
    interpreter = _interpreter(path, threads)
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    _check(path, "input", inputs, card.input["shape"], card.input["dtype"])
    _check(path, "output", outputs, card.output["shape"], None)
    (source,), (target,) = inputs, outputs

    def run(image):
        interpreter.set_tensor(source["index"], _quantised(image, source)[None])
        interpreter.invoke()
        return _real(interpreter.get_tensor(target["index"])[0], target)

    return run


def _interpreter(path, threads):
    litert = need("ai_edge_litert.interpreter", "tflite")
    with open(path, "rb") as file:
        if file.read(8)[4:] != b"TFL3":  # the identifier that a TFLite flatbuffer carries
            raise InputError(f"{path}: not a TFLite file")
    try:
        with muted():  # it announces its delegate
            interpreter = litert.Interpreter(model_path=str(path), num_threads=threads)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: LiteRT cannot load it, it is damaged or of another kind ({reason})") from error
    return interpreter


def _check(path, side, tensors, shape, dtype):
    found = [[*map(int, tensor["shape"])] for tensor in tensors]
    if found != [[*shape]]:
        raise InputError(f"{path}: another kind of model: the card says {side} {[*shape]}, the file has {found}")
    name = np.dtype(tensors[0]["dtype"]).name
    if dtype is not None and name != dtype:
        raise InputError(f"{path}: another kind of model: the card says {side} {dtype}, the file has {name}")


def _quantised(values, tensor):
    """Real values -> what the tensor holds: real = scale * (stored - zero_point)."""
    dtype = np.dtype(tensor["dtype"])
    if dtype.kind == "f":
        return values.astype(dtype)
    scale, zero_point = tensor["quantization"]
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values / (scale or 1.0)) + zero_point, limits.min, limits.max).astype(dtype)


def _real(stored, tensor):
    scale, zero_point = tensor["quantization"]
    if stored.dtype.kind == "f" or not scale:
        return stored.astype(np.float32)
    return (stored.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
