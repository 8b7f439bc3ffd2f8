"""From a trained model to a .tflite or .onnx file with its card, proven to say the same. Needs TensorFlow."""

from kseg.export.convert import PRECISIONS, export
from kseg.export.errors import ConversionError, ExportError, ParityError
from kseg.export.inference import inference_model
from kseg.export.parity import TOLERANCES, Tolerance, check_parity

__all__ = [
    "PRECISIONS",
    "TOLERANCES",
    "ConversionError",
    "ExportError",
    "ParityError",
    "Tolerance",
    "check_parity",
    "export",
    "inference_model",
]
