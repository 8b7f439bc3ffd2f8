"""Runs a .tflite file with LiteRT's interpreter (`kseg[tflite]`), on the CPU through XNNPACK."""

import numpy as np

from kseg.errors import InputError, need
from kseg.runtime.agreement import check_agreement
from kseg.runtime.chatter import muted


def open_tflite(path, card, threads):
    """Return a function that runs the file.

    It takes an image, float32 [H, W, 3] in 0..255, and returns what the card's output kind says: scores, float32
    [H, W, classes], or labels, int32 [H, W].

    Raises:
        InputError: the file is no TFLite model, is damaged, or is not the network that its card describes. The
            returned function raises it for an image of a size that a resizable network cannot take.
        ImportError: ai-edge-litert is not installed.
    """
    interpreter = open_interpreter(path, threads)
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    check_agreement(path, card, [described(tensor) for tensor in inputs], [described(tensor) for tensor in outputs])
    network = _Network(path, interpreter, card.output["kind"], resizable=not card.size_px)
    if card.size_px:  # a resizable one gets its memory with its first image
        network.allocate()
    return network


class _Network:
    """The interpreter with the size that it is set to."""

    def __init__(self, path, interpreter, kind, resizable):
        self._path, self._interpreter, self._kind, self._resizable = path, interpreter, kind, resizable
        (self._source,), (self._target,) = interpreter.get_input_details(), interpreter.get_output_details()
        self._size_px = None

    def __call__(self, image):
        if image.shape[:2] != self._size_px:
            self._resize(image.shape[:2])
        self._interpreter.set_tensor(self._source["index"], _quantised(image, self._source)[None])
        self._run()
        stored = self._interpreter.get_tensor(self._target["index"])[0]
        return stored.astype(np.int32) if self._kind == "labels" else _real(stored, self._target)

    def _run(self):
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            if not self._resizable:
                raise
            size_px, self._size_px = self._size_px, None  # what it holds now fits no size
            raise self._misfit(size_px, error) from error

    def allocate(self):
        """Give every tensor its memory, at the size that is set."""
        allocate(self._path, self._interpreter)
        self._size_px = tuple(map(int, self._interpreter.get_input_details()[0]["shape"][1:3]))

    def _resize(self, size_px):
        self._size_px = None  # should this fail, the interpreter is at no size at all
        self._interpreter.resize_tensor_input(self._source["index"], [1, *size_px, 3], strict=True)
        try:
            self.allocate()
        except InputError as error:
            raise self._misfit(size_px, error.__cause__) from error

    def _misfit(self, size_px, error):
        return InputError(f"{self._path}: takes no image of {size_px[0]} x {size_px[1]} ({_reason(error)})")


def open_interpreter(path, threads, keep_tensors=False):
    """LiteRT's interpreter of any .tflite file, still without memory for its tensors.

    Args:
        path: the file.
        threads: how many it may use.
        keep_tensors: keep what every operator gives, to be read after a run, which is slow and without a delegate.
    Raises:
        InputError: the file is no TFLite model, or is damaged.
        ImportError: ai-edge-litert is not installed.
    """
    litert = need("ai_edge_litert.interpreter", "tflite")
    with open(path, "rb") as file:
        if file.read(8)[4:] != b"TFL3":  # the identifier that a TFLite flatbuffer carries
            raise InputError(f"{path}: not a TFLite file")
    try:
        with muted():
            resolvers = litert.OpResolverType
            return litert.Interpreter(
                model_path=str(path),
                num_threads=threads,
                experimental_preserve_all_tensors=keep_tensors,
                experimental_op_resolver_type=resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES
                if keep_tensors
                else resolvers.AUTO,
            )
    except (ValueError, RuntimeError) as error:
        raise _refusal(path, error) from error


def allocate(path, interpreter):
    """Give every tensor its memory, at the size that is set.

    Raises:
        InputError: the network cannot be run at all, or not at this size.
    """
    try:
        with muted():  # it announces its delegate
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise _refusal(path, error) from error


def _refusal(path, error):
    return InputError(f"{path}: LiteRT cannot load it, it is damaged or of another kind ({_reason(error)})")


def _reason(error):
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__


def described(tensor):
    """Details of a tensor -> (shape with None for open edges, name of the dtype)."""
    shape = tuple(None if edge < 0 else int(edge) for edge in tensor["shape_signature"])
    return shape, np.dtype(tensor["dtype"]).name


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
