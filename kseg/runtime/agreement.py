"""Is this file the network that its card describes? Asked when it is opened, of every format alike."""

from kseg.errors import InputError

# Scores may be integers with a scale; classes are plain integers.
_DTYPES = {
    "logits": ("float32", "float16", "uint8", "int8", "int16"),
    "probabilities": ("float32", "float16", "uint8", "int8", "int16"),
    "labels": ("uint8", "int32", "int64"),
}


def check_agreement(path, card, inputs, outputs):
    """Compare what a file takes and gives with its card.

    Args:
        path: of the file, for the message.
        card: Card.
        inputs, outputs: list of (shape, name of the dtype); None in a shape is an edge left open.
    Raises:
        InputError: they differ.
    """
    shape, kind = card.input["shape"], card.output["kind"]
    if [[*found] for found, _ in inputs] != [[*shape]]:
        raise _differs(path, f"input {_text(shape)}", " and ".join(_text(found) for found, _ in inputs))
    if inputs[0][1] != card.input["dtype"]:
        raise _differs(path, f"input {card.input['dtype']}", inputs[0][1])
    shape = card.output["shape"]
    if len(outputs) != 1 or not _fits(shape, outputs[0][0]):
        raise _differs(path, f"output {_text(shape)}", " and ".join(_text(found) for found, _ in outputs))
    if outputs[0][1] not in _DTYPES[kind]:
        raise _differs(path, f"{kind} as output", outputs[0][1])


def _fits(shape, found):
    # The edges of a resizable file's output follow from its input's; what the file says of them beforehand varies.
    return len(shape) == len(found) and all(edge in (None, other) for edge, other in zip(shape, found, strict=True))


def _differs(path, said, found):
    return InputError(f"{path}: another kind of model: the card says {said}, the file has {found or 'none'}")


def _text(shape):
    return f"[{', '.join('any' if edge is None else str(edge) for edge in shape)}]"
