"""Trained model -> inference model of one size, by the list of passes."""

from dataclasses import dataclass
from numbers import Integral

import keras
import numpy as np

from kseg.errors import InputError
from kseg.lowering import ends, passes
from kseg.lowering.graph import as_array, build, check_functional, read
from kseg.lowering.kind import gives_probabilities
from kseg.lowering.quantisation import take_ranges

OUTPUTS = {"logits": None, "probabilities": ends.give_probabilities, "labels": ends.give_labels}


@dataclass(frozen=True)
class Lowered:
    """A lowered network, and what a quantisation-aware training has learned of its ranges.

    Attributes:
        model: keras.Model.
        ranges: list of (Keras tensor of the model, (low, high)).
    """

    model: keras.Model
    ranges: list


def lower(model, size_px, **options):
    """The model of `lower_with_ranges`; takes the same arguments."""
    return lower_with_ranges(model, size_px, **options).model


def lower_with_ranges(
    model, size_px, *, output="logits", input_dtype="float32", skip=(), resizable=False, keep_rounding=False
):
    """Return a float32 copy of a functional or sequential model for prediction, with a fixed input and batch size.

    A static shape keeps the whole graph inside one delegate on TFLite, and a float32 copy converts alike whatever
    precision the model was trained in. Layers that stay as they are, are shared with `model`, weights and all.

    Args:
        model: keras.Model with one image input and one output [B, H, W, classes].
        size_px: (height, width), or None where the model itself has a fixed size.
        output: "logits": what the model gives, [1, H, W, classes]; "probabilities": after a softmax (one class: a
            sigmoid), if it does not end in one already; "labels": the index of the greatest, uint8 (beyond 256 classes
            int32) [1, H, W].
        input_dtype: of the image in 0..255, "float32" or "uint8".
        skip: names of PASSES to leave out.
        resizable: keep height and width open; `size_px` is not used then.
        keep_rounding: leave the fake quantisation of a quantisation-aware training in; otherwise it is taken out.
    Returns:
        Lowered, with the keras.Model: "image" [1, H, W, 3] -> as `output` says.
    Raises:
        InputError: the model takes something else than one RGB image of that size, its scores have another size
            than its input, labels of one class are wanted, or its weights are not finite.
        ValueError: the model is neither functional nor sequential, or an argument is not allowed.
    """
    check_functional(model)
    if output not in OUTPUTS:
        raise ValueError(f"`output` must be one of {', '.join(OUTPUTS)}. Received: {output}")
    if input_dtype not in ("float32", "uint8"):
        raise ValueError(f"`input_dtype` must be float32 or uint8. Received: {input_dtype}")
    unknown = set(skip) - set(passes.PASSES)
    if unknown:
        raise ValueError(f"`skip` must name passes: {', '.join(passes.PASSES)}. Received: {', '.join(sorted(unknown))}")
    size_px = _size(model, size_px, resizable)
    if output == "labels" and model.output_shape[-1] == 1:
        raise InputError(f"{model.name}: has one class, which every pixel would get; export its probabilities instead")
    _check_weights(model)
    graph = read(model)
    ranges = {} if keep_rounding else take_ranges(graph)
    for name, rewrite in passes.PASSES.items():
        if name not in skip:
            rewrite(graph)
    if OUTPUTS[output] and not (output == "probabilities" and gives_probabilities(model)):
        OUTPUTS[output](graph)
    if input_dtype == "uint8":
        ends.take_uint8(graph)
    network, tensors = build(graph, (1, *size_px, 3), input_dtype)
    if tuple(network.output_shape[:3]) != (1, *size_px):
        raise InputError(
            f"{model.name}: gives scores of {_by(network.output_shape[1:3])} for an image of {_by(size_px)}; "
            f'only networks with scores of the size of the image can be exported (padding="same")'
        )
    return Lowered(network, [(tensors[value], limits) for value, limits in ranges.items() if value in tensors])


def _check_weights(model):
    for weight in model.weights:
        array = as_array(weight)
        if np.issubdtype(array.dtype, np.inexact) or array.dtype.kind == "V":  # bfloat16 is a void to NumPy
            # Without a temporary array of the weight's size: a sum is finite only if every part is, or overflows.
            total = np.sum(array, dtype=np.float64) if array.dtype.kind == "f" else np.float64(array.sum())
            if not np.isfinite(total):
                # Told here: TensorFlow's 8-bit converter does not refuse them, it takes the whole process down.
                raise InputError(f"{model.name}: the weights {weight.path} hold NaN or infinity: its training diverged")


def _size(model, size_px, resizable):
    """Check that the model takes RGB images, and return the size for the file."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise InputError(
            f"{model.name}: has {len(model.inputs)} inputs and {len(model.outputs)} outputs; only one of each works"
        )
    shape, scores = model.inputs[0].shape, model.outputs[0].shape
    if len(shape) != 4 or shape[3] != 3 or len(scores) != 4:
        raise InputError(
            f"{model.name}: maps {list(shape)} to {list(scores)}; only RGB images to scores can be exported"
        )
    own = tuple(shape[1:3])
    if resizable:
        if own != (None, None):
            raise InputError(f"{model.name}: takes images of {_by(own)} only, and so cannot be made for any size")
        return own
    if size_px is None and None in own:
        raise InputError(f"{model.name}: takes images of any size; say the height and width of the exported file")
    wanted, size_px = size_px, own if size_px is None else size_px
    whole = isinstance(size_px, tuple | list) and all(isinstance(edge, Integral) and edge > 0 for edge in size_px)
    if not whole or len(size_px) != 2:
        raise InputError(f"the size must be a height and a width of at least one pixel. Received: {wanted!r}")
    size_px = tuple(int(edge) for edge in size_px)
    if any(edge not in (None, wanted) for edge, wanted in zip(own, size_px, strict=True)):
        raise InputError(f"{model.name}: takes images of {_by(own)} only. Received: {_by(size_px)}")
    return size_px


def _by(size_px):
    return " x ".join("any" if edge is None else str(edge) for edge in size_px)


def like_input(model, images):
    """`images` in the form in which a model of one input declared it, alone, in a list or in a dict: Keras minds."""
    declared = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    return keras.tree.map_structure(lambda _: images, declared)
