"""Pictures for the tests of 8-bit files, and a way to run a file of either format."""

import numpy as np
import onnxruntime
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

SIZE = (64, 80)


def pictures(count, seed=7):
    rng = np.random.default_rng(seed)
    coarse = (Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8)) for _ in range(count))
    return [np.asarray(image.resize(SIZE[::-1], Image.BILINEAR)) for image in coarse]


def run(path, image):
    """float32 [H, W, classes] that a file gives."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return session.run(None, {"image": image[None].astype(np.float32)})[0][0]
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(source["index"], image[None].astype(source["dtype"]))
    interpreter.invoke()
    found, (scale, zero_point) = interpreter.get_tensor(target["index"])[0], target["quantization"]
    return (found.astype(np.float32) - zero_point) * np.float32(scale) if scale else found
