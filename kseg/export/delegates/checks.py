"""What a rule may ask of an operator: each check gives the reason to refuse it, or None."""

from collections.abc import Callable
from dataclasses import dataclass

LITERT = "https://github.com/google-ai-edge/LiteRT/blob/main/tflite/"


def names(text):
    """Tuple of the words."""
    return tuple(text.split())


def by_name(values):
    """{value: "NAME NAME ..."} -> {name: value}."""
    return {name: value for value, text in values.items() for name in names(text)}


# Inputs that say how, not what: shapes, sizes, paddings, axes.
PARAMETERS = by_name(
    {
        (0,): "SPLIT TRANSPOSE_CONV",
        (1,): """
            ARG_MAX ARG_MIN MEAN PAD PADV2 REDUCE_MAX REDUCE_MIN RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SUM
            TRANSPOSE
        """,
        (1, 2): "SLICE",
        (1, 2, 3): "STRIDED_SLICE",
    }
)
WEIGHTS = {
    "CONV_2D": (1, 2),
    "DEPTHWISE_CONV_2D": (1, 2),
    "FULLY_CONNECTED": (1, 2),
    "PRELU": (1,),
    "TRANSPOSE_CONV": (1, 3),
}
_FUSED = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT")  # the schema's ActivationFunctionType


@dataclass(frozen=True)
class Rule:
    """`check` takes a reader.Operator. `operators`: names of those that it is for; None: for all."""

    operators: tuple | None
    check: Callable
    source: str


def activations(operator):
    """The tensors that an operator takes and gives while running, without weights and parameters."""
    aside = (*PARAMETERS.get(operator.name, ()), *WEIGHTS.get(operator.name, ()))
    taken = [tensor for place, tensor in enumerate(operator.inputs) if tensor and place not in aside]
    return [tensor for tensor in taken if not tensor.static] + list(operator.outputs)


def weights(operator):
    """An operator's constants apart from parameters, such as filter and bias."""
    aside = PARAMETERS.get(operator.name, ())
    return [tensor for place, tensor in enumerate(operator.inputs) if tensor and tensor.static and place not in aside]


def among(operators):
    """Operators of these names."""

    def check(operator):
        # Custom operators are a list of their own, which names them in another way: one called "ADD" is no ADD.
        if operator.name in operators and operator.custom is not operator.name.isupper():
            return None
        return "a custom operator" if operator.custom else "not among its operators"

    return check


def up_to(versions):
    """{name: the latest version that is taken}."""

    def check(operator):
        most = versions.get(operator.name, operator.version)
        return f"version {operator.version}; it takes versions up to {most}" if operator.version > most else None

    return check


def types(*dtypes):
    """Activations of these types."""

    def check(operator):
        other = next((tensor.dtype for tensor in activations(operator) if tensor.dtype not in dtypes), None)
        return f"works on {other}; it takes {', '.join(dtypes)}" if other else None

    return check


def fused(*allowed):
    """Fused activations of these names."""

    def check(operator):
        number = operator.option("FusedActivationFunction")
        name = _FUSED[number] if 0 <= number < len(_FUSED) else str(number)
        return None if name in allowed else f"fused activation {name}"

    return check


def rank(least, most):
    """Activations of so many dimensions."""

    def check(operator):
        found = next((len(t.shape) for t in activations(operator) if not least <= len(t.shape) <= most), None)
        takes = most if least == most else f"{least} to {most}"
        return None if found is None else f"a tensor of {found} dimensions; it takes {takes}"

    return check


def inputs(least, most):
    """So many inputs."""

    def check(operator):
        count = len(operator.inputs)
        return None if least <= count <= most else f"{count} inputs; it takes {least} to {most}"

    return check


def ratio(least, most, of, closed=False):
    """The ratios of scales that `of(operator)` gives must lie in [least, most), or [least, most] if it is closed."""

    def check(operator):
        scaled = all(tensor.scale for tensor in (*operator.inputs, *operator.outputs) if tensor)
        fits = all(least <= found < most or (closed and found == most) for found in of(operator)) if scaled else True
        return None if fits else "scales too far apart"

    return check


def settled_parameters(operator):
    """Shapes, sizes, paddings and axes are constants."""
    moving = any(t and not t.constant for t in map(operator.input, PARAMETERS.get(operator.name, ())))
    return "a shape or size computed while running" if moving else None


def settled_weights(operator):
    """Filter and bias are constants."""
    moving = any(tensor and not tensor.static for tensor in map(operator.input, WEIGHTS.get(operator.name, ())))
    return "weights computed while running" if moving else None


def with_bias(operator):
    """A bias is there."""
    return None if operator.input(2) else "no bias"


def one_type(operator):
    """All activations have the same type."""
    found = {tensor.dtype for tensor in activations(operator)}
    return f"mixes {' and '.join(sorted(found))}" if len(found) > 1 else None


def no_hybrid(operator):
    """No 8-bit weights on float activations."""
    kernel = operator.input(WEIGHTS[operator.name][0])
    works_on = {tensor.dtype for tensor in activations(operator)}
    eight_bits = kernel is not None and kernel.dtype in ("int8", "uint8")
    return "float values with 8-bit weights (dynamic range)" if works_on == {"float32"} and eight_bits else None


def one_scale(operator):
    """Scale and zero point stay as they are."""
    found = {(tensor.scale, tensor.zero_point) for tensor in activations(operator)}
    return "changes scale or zero point" if len(found) > 1 else None


def unpacks(operator):
    """For DEQUANTIZE: weights are unpacked when the file is loaded, whatever they are."""
    dtype = operator.inputs[0].dtype
    return None if operator.outputs[0].static or dtype in ("int8", "uint8") else f"unpacks {dtype} while running"


def plain_softmax(operator):
    """A softmax without a temperature."""
    beta = operator.option("Beta", 1.0)
    return None if beta == 1.0 else f"beta {beta:g}; it takes 1"


def keeps_axes(operator):
    """A slice of as many dimensions as before."""
    masks = ("EllipsisMask", "NewAxisMask", "ShrinkAxisMask")
    return "adds or drops an axis" if any(map(operator.option, masks)) else None


def unit_strides(operator):
    """A slice without gaps."""
    strides = operator.input(3).values if operator.input(3) else None
    return None if strides and set(strides) == {1} else "a stride other than 1"
