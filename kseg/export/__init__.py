"""From a trained model to a .tflite or .onnx file with its card, proven to say the same. Needs TensorFlow."""

from kseg.export.calibration import Calibration, choose
from kseg.export.convert import PRECISIONS, export
from kseg.export.errors import ConversionError, ExportError, ParityError
from kseg.export.parity import TOLERANCES, Tolerance, check_parity

__all__ = [
    "PRECISIONS",
    "TOLERANCES",
    "Calibration",
    "ConversionError",
    "ExportError",
    "ParityError",
    "Tolerance",
    "check_parity",
    "choose",
    "export",
]
