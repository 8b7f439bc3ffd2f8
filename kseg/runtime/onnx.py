"""Runs a .onnx file with ONNX Runtime (`kseg[onnx]`), on the CPU."""

import numpy as np

from kseg.errors import InputError, need

_ELEMENT_TYPES = {"float32": "tensor(float)", "uint8": "tensor(uint8)"}


def open_onnx(path, card, threads):
    """Return a function float32 [H, W, 3] in 0..255 -> float32 [H, W, classes] that runs the file.

    Raises:
        InputError: the file is no ONNX model, is damaged, or is not the network that its card describes.
        ImportError: onnxruntime is not installed.
    """
    session = _session(path, threads)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    _check(path, "input", inputs, card.input["shape"], card.input["dtype"])
    _check(path, "output", outputs, card.output["shape"], "float32")
    name, dtype = inputs[0].name, np.dtype(card.input["dtype"])

    def run(image):
        if dtype.kind == "u":
            image = np.clip(np.rint(image), 0, 255)
        return session.run(None, {name: image[None].astype(dtype)})[0][0]

    return run


def _session(path, threads):
    runtime = need("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what goes wrong comes as an exception
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no base class of their own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: ONNX Runtime cannot load it: not an ONNX file, or damaged ({reason})") from error


def _check(path, side, tensors, shape, dtype):
    found = [tensor.shape for tensor in tensors]
    if found != [[*shape]]:
        raise InputError(f"{path}: another kind of model: the card says {side} {[*shape]}, the file has {found}")
    if tensors[0].type != _ELEMENT_TYPES[dtype]:
        raise InputError(f"{path}: another kind of model: the card says {side} {dtype}, the file has {tensors[0].type}")
