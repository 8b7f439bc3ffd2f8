"""From a trained model to a .tflite or .onnx file with its card, proven to say the same. Needs TensorFlow."""

from kseg.export.budget import TARGETS, BudgetError, export_best, search
from kseg.export.calibration import Calibration, bundled, calibrate, choose, data_name, verification
from kseg.export.convert import PRECISIONS, export
from kseg.export.errors import ConversionError, ExportError, ParityError
from kseg.export.inspect import fully_accelerated, inspect
from kseg.export.parity import TOLERANCES, Tolerance, check_parity

__all__ = [
    "PRECISIONS",
    "TARGETS",
    "TOLERANCES",
    "BudgetError",
    "Calibration",
    "ConversionError",
    "ExportError",
    "ParityError",
    "Tolerance",
    "bundled",
    "calibrate",
    "check_parity",
    "choose",
    "data_name",
    "export",
    "export_best",
    "fully_accelerated",
    "inspect",
    "search",
    "verification",
]
