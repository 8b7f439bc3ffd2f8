"""What the scores of a network are, told by how it ends: probabilities or logits."""

import math
from numbers import Real

import keras

from kseg.layers import BilinearUpsampling, CropLike
from kseg.layers.quantisation import FakeQuantize, RoundToStep
from kseg.lowering.graph import Value, read

# Layers behind which probabilities are probabilities still.
_KEEPING = (
    BilinearUpsampling,
    CropLike,
    FakeQuantize,
    RoundToStep,
    keras.layers.AveragePooling2D,
    keras.layers.Cropping2D,
    keras.layers.Dropout,
    keras.layers.Identity,
    keras.layers.Permute,
    keras.layers.Reshape,
    keras.layers.Resizing,
    keras.layers.UpSampling2D,
)
# Operations of keras.ops, or of indexing, that do as well. Their classes are not public: by name.
_KEEPING_OPERATIONS = (
    "Cast",
    "Clip",
    "Flip",
    "GetItem",
    "Mean",
    "Moveaxis",
    "Reshape",
    "Resize",
    "Slice",
    "Squeeze",
    "Stack",
    "Swapaxes",
    "Transpose",
)
# Functions of these libraries: one of somebody's own may have the same name.
_NORMALISING = ("softmax", "softmax_v2", "sigmoid", "hard_sigmoid")
_LIBRARIES = ("keras", "tensorflow", "jax")


def gives_probabilities(model):
    """Whether a functional or sequential model ends in a softmax over the classes or a sigmoid, behind which nothing
    but cutting, resizing, reshaping, clipping, rounding or a mean, also a weighted one, of several such comes, or a
    sigmoid p joined with 1 - p."""
    graph = read(model)
    return math.isclose(_multiple(graph, graph.output), 1.0, rel_tol=1e-3)  # 0.33 a + 0.33 b + 0.34 c


def _multiple(graph, value):
    """By how much the scores are a multiple of probabilities: 1 for those themselves, NaN for anything else."""
    step = graph.maker(value)
    if step is None:
        return math.nan
    if _normalises(step):
        return 1.0
    name, inputs = type(step.operation).__name__, step.inputs
    if name in ("Add", "Average"):
        if any(not isinstance(leaf, Value) for leaf in keras.tree.flatten(step.args)):
            return math.nan
        total = sum(_multiple(graph, source) for source in inputs)
        return total / len(inputs) if name == "Average" else total
    if name in ("Multiply", "Divide", "TrueDivide"):
        return _scaled(graph, name, *step.args)
    if name == "Concatenate" and [value.shape[-1] for value in (*inputs, step.output)] == [1, 1, 2]:
        return max(_opposites(graph, *inputs), _opposites(graph, *reversed(inputs)), key=math.isfinite)
    if not _keeps_kind(step):
        return math.nan
    # Of its second input, CropLike looks at the size only.
    first, *others = [_multiple(graph, source) for source in (inputs if name == "Stack" else inputs[:1])]
    return first if all(math.isclose(first, other) for other in others) else math.nan


def _opposites(graph, first, second):
    """Of the scores p, where the others are 1 - p."""
    step = graph.maker(first)
    opposite = step is not None and type(step.operation).__name__ == "Subtract" and step.args == (1, second)
    return _multiple(graph, second) if opposite else math.nan


def _scaled(graph, name, *factors):
    """Of a product or a quotient of scores and a positive number."""
    numbers = [factor for factor in factors if isinstance(factor, Real) and factor > 0]
    values = [factor for factor in factors if isinstance(factor, Value)]
    if not len(numbers) == len(values) == 1 or (name != "Multiply" and values != [factors[0]]):
        return math.nan
    return _multiple(graph, values[0]) * (numbers[0] if name == "Multiply" else 1 / numbers[0])


def _normalises(step):
    # By name: keras.ops.softmax in a model is an operation of a class that is not public.
    name, activation = type(step.operation).__name__, getattr(step.operation, "activation", None)
    if name == "Softmax":
        return getattr(step.operation, "axis", -1) in (-1, len(step.output.shape) - 1)
    library = str(getattr(activation, "__module__", "")).partition(".")[0]
    known = library in _LIBRARIES and getattr(activation, "__name__", "") in _NORMALISING
    return known or name in ("Sigmoid", "HardSigmoid")


def _keeps_kind(step):
    if step.is_a(keras.layers.Activation):
        return step.operation.activation is keras.activations.linear
    keeps = step.is_a(*_KEEPING) or type(step.operation).__name__ in _KEEPING_OPERATIONS
    return keeps and step.outputs[0].shape[-1] == step.inputs[0].shape[-1]  # the classes, if reshaped or permuted
