"""A trained network, rebuilt for prediction: what is for training only gone, the rest in a form that devices like."""

from kseg.lowering.graph import Graph, Step, Value, build, read
from kseg.lowering.lower import OUTPUTS, lower
from kseg.lowering.passes import PASSES

__all__ = ["OUTPUTS", "PASSES", "Graph", "Step", "Value", "build", "lower", "read"]
