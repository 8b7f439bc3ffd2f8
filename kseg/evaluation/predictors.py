"""Files -> predictors: `.keras` through Keras, `.tflite` and `.onnx` through kseg.runtime."""

from pathlib import Path

from kseg import runtime
from kseg.errors import InputError
from kseg.evaluation.augmentation import Augmented
from kseg.runtime import windows


def load_predictor(path, threads=None, *, window_px=None, overlap_px=None, flips="none", scales=(1.0,)):
    """Load whatever a user may have trained or exported.

    Args:
        path: `.keras`, or `.tflite` / `.onnx` with its card beside it.
        threads: for the interpreters of exported files; None: every core that this process may use.
        window_px: (height, width) of the windows that every image is taken in, see `kseg.runtime.windows`; None: an
            image goes in whole as long as it is not large.
        overlap_px: least overlap of these windows; None: a quarter of the shorter side.
        flips, scales: views of each image to average over, see `kseg.evaluation.Augmented`.
    Raises:
        InputError: an unknown suffix, or the file is missing, damaged or no segmentation network for RGB images, of two
            classes at least; or it does not take such windows or scales.
    """
    path = Path(path)
    if path.suffix == ".keras":
        from kseg.evaluation.keras_predictor import open_keras  # here: exported files need no Keras

        if threads is not None:
            raise InputError(f"{path}: threads can be set for exported files, not for Keras")

        predictor = open_keras(path)
    elif path.suffix in (".tflite", ".onnx"):
        predictor = runtime.load(path, threads=threads)
    else:
        raise InputError(f"{path}: a model is a .keras, .tflite or .onnx file")
    if len(predictor.labels) == 1:
        raise InputError(
            f"{path}: gives one score a pixel; the class is that of the greatest of two or more scores. Give the Keras "
            "model a second, of a sigmoid p by keras.layers.Concatenate()([1 - p, p]), and save it with two labels"
        )
    if window_px is not None:
        overlap_px = min(window_px) // 4 if overlap_px is None else overlap_px
        predictor = windows.Windowed(predictor, window_px, overlap_px)
    elif overlap_px is not None:
        raise InputError("an overlap was given, but no window")
    if flips == "none" and tuple(scales) == (1.0,):
        return predictor
    return Augmented(predictor, flips, scales)
