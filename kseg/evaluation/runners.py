"""Any network file -> a function that runs it once, with nothing else in the way of the clock.

Unlike `load_predictor` this asks for no card: files that others made are timed too, as long as they take images.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kseg.errors import InputError, need
from kseg.runtime.onnx import described as described_onnx
from kseg.runtime.onnx import open_session
from kseg.runtime.resize import resize
from kseg.runtime.tflite import allocate, described, open_interpreter

_CHANNELS = (1, 3, 4)
# Largest noise on the picture, and the edge of the coarse one that it is drawn up from.
_NOISE, _COARSE_PX = 12, 8


@dataclass(frozen=True)
class Runner:
    """A network that is ready to run.

    Attributes:
        run: function without arguments: hands over the picture, runs the network, and has the result at hand.
        inputs: ((shape, name of the dtype), ...).
    """

    run: object
    inputs: tuple


def open_runner(path, threads, size_px=None):
    """Open a file, with a picture of its size.

    Args:
        path: .tflite or .onnx, with or without a card, or .keras.
        threads: how many the network may use. For .keras it holds for the process, before anything else runs in it.
        size_px: (height, width) for a network that leaves them open; without use for others.
    Raises:
        InputError: the file is missing, damaged, of another suffix, takes something else than images, or leaves its
            size open and `size_px` is None.
        ImportError: what runs it is not installed.
    """
    path = Path(path)
    if path.suffix not in OPENERS:
        raise InputError(f"{path}: can time {', '.join(OPENERS)} files only")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    return OPENERS[path.suffix](path, threads, size_px)


def warm_up_imports(path):
    """Import what runs the file, so that the time and memory of the import can be told from the file's."""
    suffix = Path(path).suffix
    if suffix == ".tflite":
        need("ai_edge_litert.interpreter", "tflite")
    elif suffix == ".onnx":
        need("onnxruntime", "onnx")
    elif suffix == ".keras":
        import kseg.training.checkpoint  # noqa: F401  here, because it brings TensorFlow


def picture(shape, dtype):
    """Something like a photo, the same one every time: smooth areas with a little noise.

    Zeros would be faster than what a network meets, and white noise is what it never meets.

    Args:
        shape: of the tensor, without open edges; [B, H, W, C] or [B, C, H, W] with 1, 3 or 4 channels is a picture,
            anything else is filled with noise.
        dtype: of the tensor; int8 gets 128 less than uint8.
    Returns:
        array in 0..255.
    """
    generator = np.random.default_rng(0)
    if len(shape) == 4 and shape[3] in _CHANNELS:
        values = _smooth(generator, shape[1:])
    elif len(shape) == 4 and shape[1] in _CHANNELS:
        values = _smooth(generator, (*shape[2:], shape[1])).transpose(2, 0, 1)
    else:
        values = generator.uniform(0, 255, shape[1:])
    values = np.broadcast_to(values, shape)
    return np.ascontiguousarray(np.rint(values - 128 if np.dtype(dtype) == np.int8 else values)).astype(dtype)


def _smooth(generator, shape):
    coarse = generator.uniform(0, 255, (_COARSE_PX, _COARSE_PX, shape[2])).astype(np.float32)
    return np.clip(resize(coarse, shape[:2]) + generator.uniform(-_NOISE, _NOISE, shape), 0, 255)


def _closed(path, shape, size_px):
    """`shape` with a number for each None: a batch of one, and `size_px`."""
    if None not in shape:
        return tuple(shape)
    shape = [1 if shape[0] is None else shape[0], *shape[1:]]
    if None in shape:
        first = 2 if len(shape) == 4 and shape[1] in _CHANNELS else 1  # [B, C, H, W] or [B, H, W, C]
        if len(shape) != 4 or None in shape[:first] + shape[first + 2 :]:
            raise InputError(f"{path}: takes {shape}, which is no image")
        if size_px is None:
            raise InputError(f"{path}: takes images of any size; say one with --size H W")
        shape[first : first + 2] = size_px
    return tuple(shape)


def fill_interpreter(path, threads, size_px=None, keep_tensors=False):
    """LiteRT's interpreter with its memory and pictures for its inputs.

    Returns:
        (interpreter, {index of an input: picture}).
    """
    interpreter = open_interpreter(path, threads, keep_tensors)
    pictures = {}
    for tensor in interpreter.get_input_details():
        shape, dtype = described(tensor)
        shape = _closed(path, shape, size_px)
        if shape != tuple(map(int, tensor["shape"])):
            interpreter.resize_tensor_input(tensor["index"], shape)
        pictures[tensor["index"]] = picture(shape, dtype)
    allocate(path, interpreter)
    return interpreter, pictures


def _open_tflite(path, threads, size_px):
    interpreter, pictures = fill_interpreter(path, threads, size_px)

    def run():
        for index, values in pictures.items():
            interpreter.set_tensor(index, values)
        interpreter.invoke()  # the result lies in the interpreter then, where it can be read without a copy

    return Runner(run, _kinds(pictures))


def _open_onnx(path, threads, size_px):
    session = open_session(path, threads)
    pictures = feeds(path, session, size_px)
    return Runner(lambda: session.run(None, pictures), _kinds(pictures))


def _kinds(pictures):
    return tuple((values.shape, values.dtype.name) for values in pictures.values())


def feeds(path, session, size_px):
    """{name of an input of a session: picture}."""
    found = {}
    for tensor in session.get_inputs():
        shape, dtype = described_onnx(tensor)
        try:
            found[tensor.name] = picture(_closed(path, shape, size_px), dtype)
        except TypeError as error:
            raise InputError(f"{path}: takes {tensor.type}, which is no image") from error
    return found


def _open_keras(path, threads, size_px):
    import keras  # here, because a board has none

    from kseg.evaluation.keras_predictor import KerasPredictor
    from kseg.training.checkpoint import load_model

    if keras.backend.backend() != "tensorflow":
        raise InputError(f"{path}: is timed on TensorFlow only: set the environment variable KERAS_BACKEND=tensorflow")
    settings = need("tensorflow", "cpu").config.threading
    settings.set_intra_op_parallelism_threads(threads)
    settings.set_inter_op_parallelism_threads(threads)
    predictor = KerasPredictor(*load_model(path))
    shape = _closed(path, predictor.model.input_shape, size_px)
    images = picture(shape, "float32")
    return Runner(lambda: predictor(images), ((shape, "float32"),))


OPENERS = {".tflite": _open_tflite, ".onnx": _open_onnx, ".keras": _open_keras}
