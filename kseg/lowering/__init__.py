"""A trained network, rebuilt for prediction: what is for training only gone, the rest in a form that devices like."""

from kseg.lowering.graph import Graph, Step, Value, build, read
from kseg.lowering.kind import gives_probabilities
from kseg.lowering.lower import OUTPUTS, Lowered, lower, lower_with_ranges
from kseg.lowering.passes import PASSES
from kseg.lowering.quantisation import is_quantization_aware, quantization_aware

__all__ = [
    "OUTPUTS",
    "PASSES",
    "Graph",
    "Lowered",
    "Step",
    "Value",
    "build",
    "gives_probabilities",
    "is_quantization_aware",
    "lower",
    "lower_with_ranges",
    "quantization_aware",
    "read",
]
