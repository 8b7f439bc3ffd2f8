"""What stands in a .tflite file that anyone may have made, read where it lies: its weights are never copied.

The schema's accessors are lazy; what they may follow is checked first, see `bounds`.
"""

import math
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kseg.errors import InputError
from kseg.export.tflite import bounds
from kseg.export.tflite.bounds import DamagedError
from kseg.export.tflite.flatbuffer import NAMES, schema

_DTYPES = {value: name.lower() for name, value in vars(schema.TensorType).items() if not name.startswith("_")}
_UNION = {value: name for name, value in vars(schema.BuiltinOptions).items() if not name.startswith("_")}
_ITEM_BYTES = {"float32": 4, "float16": 2, "int32": 4, "uint8": 1, "int64": 8, "bool": 1, "int16": 2, "int8": 1}
# The options that rules ask for, as the schema's accessors call them.
_OPTIONS = (
    *("AlignCorners", "Beta", "DilationHFactor", "DilationWFactor", "EllipsisMask", "FilterHeight", "FilterWidth"),
    *("FusedActivationFunction", "HalfPixelCenters", "NewAxisMask", "ShrinkAxisMask", "StrideH", "StrideW"),
)
_MOST_EDGES = 16
# Larger constants are weights, of which no rule asks the values.
_MOST_VALUES = 64


@dataclass(eq=False)
class Tensor:
    """`shape` holds None for open edges. `scales` is how many scales it has: 0, 1 (per tensor) or one per channel.

    `maker` is the Operator that gives it; None for inputs and constants.
    """

    name: str
    shape: tuple
    dtype: str
    constant: bool = False
    scales: int = 0
    scale: float | None = None
    zero_point: int | None = None
    data: object = None
    maker: object = None

    @property
    def static(self):
        """Known when the file is loaded: a constant, or one that only has to be unpacked."""
        packed = self.maker is not None and self.maker.name in ("DEQUANTIZE", "DENSIFY")
        return self.constant or (packed and any(tensor and tensor.constant for tensor in self.maker.inputs))

    @property
    def values(self):
        """Tuple of what a small constant of 32-bit integers holds; None for every other tensor."""
        if self.data is None or self.dtype != "int32" or len(self.data) > 4 * _MOST_VALUES:
            return None
        return tuple(np.frombuffer(self.data, "<i4", len(self.data) // 4).tolist())


@dataclass(eq=False)
class Operator:
    """`name` is that of the schema, or the code of a custom operator; None stands for an input left out."""

    name: str
    version: int
    custom: bool
    inputs: tuple
    outputs: tuple
    options: dict

    def option(self, name, default=0):
        """One of _OPTIONS; `default` where this kind of operator has none of that name."""
        return self.options.get(name, default)

    def input(self, index):
        """Tensor, or None where it was left out."""
        return self.inputs[index] if index < len(self.inputs) else None


@dataclass(eq=False)
class Content:
    """A file's networks; `inputs` and `outputs` are {name: Tensor} of the first one, named as its signature does."""

    name: str
    size_bytes: int
    tensors: list = field(default_factory=list)
    operators: list = field(default_factory=list)
    inputs: dict = field(default_factory=dict)
    outputs: dict = field(default_factory=dict)
    signatures: tuple = ()
    weights: int = 0


def read(path_or_bytes):
    """Read a file, or its bytes.

    Returns:
        Content.
    Raises:
        InputError: it cannot be read, is no TFLite file, is damaged or cut short.
    """
    given = isinstance(path_or_bytes, (bytes, bytearray, memoryview))
    name = "the given bytes" if given else str(path_or_bytes)
    try:
        view = memoryview(path_or_bytes).cast("B") if given else _mapped(Path(path_or_bytes))
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error})") from error
    if view.nbytes < 8 or bytes(view[4:8]) != b"TFL3":  # the identifier that a TFLite flatbuffer carries
        raise InputError(f"{name}: not a TFLite file")
    try:
        bounds.check(view)
        return _content(schema.Model.GetRootAs(view), view, name)
    except (DamagedError, struct.error, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{name}: damaged or cut short, not a whole TFLite file ({error})") from error


def _mapped(path):
    if path.stat().st_size == 0:  # cannot be mapped
        return memoryview(b"")
    return memoryview(np.memmap(path, mode="r"))


def _content(model, view, name):
    buffers = [_data(model.Buffers(i), view) for i in range(model.BuffersLength())]
    codes = [_code(model.OperatorCodes(i)) for i in range(model.OperatorCodesLength())]
    content, weights, graphs = Content(name, view.nbytes), {}, []
    for graph in (model.Subgraphs(i) for i in range(model.SubgraphsLength())):
        tensors = []
        for index in range(graph.TensorsLength()):
            found = graph.Tensors(index)
            tensors.append(_tensor(found, _picked(buffers, found.Buffer())))
            if tensors[-1].constant and (tensors[-1].scales or tensors[-1].dtype.startswith("float")):
                weights[found.Buffer()] = math.prod(tensors[-1].shape)
        operators = [_operator(graph.Operators(i), codes, tensors) for i in range(graph.OperatorsLength())]
        content.tensors += tensors
        content.operators += operators
        graphs.append(tensors)
    if not graphs:
        raise DamagedError("it holds no network")
    main = model.Subgraphs(0)
    content.weights = sum(weights.values())
    content.signatures, given, taken = _signatures(model, graphs)
    content.inputs = _named(main.InputsAsNumpy(), graphs[0], given)
    content.outputs = _named(main.OutputsAsNumpy(), graphs[0], taken)
    return content


def _data(buffer, view):
    """A view of a buffer's bytes, or None. Beyond 2 GB they lie behind the flatbuffer."""
    if buffer.Offset() > 1:
        if buffer.Offset() + buffer.Size() > view.nbytes:
            raise DamagedError("weights are missing")
        return view[buffer.Offset() : buffer.Offset() + buffer.Size()]
    return memoryview(buffer.DataAsNumpy()).cast("B") if buffer.DataLength() else None


def _code(code):
    """(name, version, whether it is a custom operator)."""
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    custom = number == schema.BuiltinOperator.CUSTOM
    return (_text(code.CustomCode()) if custom else NAMES.get(number, f"OPERATOR_{number}")), code.Version(), custom


def _tensor(found, data):
    sizes = found.ShapeAsNumpy().tolist() if found.ShapeLength() else []
    if len(sizes) > _MOST_EDGES or min(sizes, default=0) < -1:
        raise DamagedError("a tensor of impossible shape")
    signature = found.ShapeSignatureAsNumpy().tolist() if found.ShapeSignatureLength() else sizes
    signature = signature if len(signature) == len(sizes) else sizes
    shape = tuple(None if -1 in edges else edges[0] for edges in zip(sizes, signature, strict=True))
    dtype = _DTYPES.get(found.Type(), f"type_{found.Type()}")
    tensor = Tensor(_text(found.Name()), shape, dtype)
    if data is not None:
        expected = math.prod(sizes) * _ITEM_BYTES.get(dtype, 0)
        if dtype in _ITEM_BYTES and found.Sparsity() is None and expected != data.nbytes:
            raise DamagedError(f"{tensor.name[:80]} has another size than its data")
        # What has data has a size.
        tensor.constant, tensor.data, tensor.shape = True, data, tuple(sizes)
    quantization = found.Quantization()
    if quantization is not None and quantization.ScaleLength():
        tensor.scales, tensor.scale = quantization.ScaleLength(), float(quantization.Scale(0))
        tensor.zero_point = int(quantization.ZeroPoint(0)) if quantization.ZeroPointLength() else 0
    return tensor


def _operator(found, codes, tensors):
    name, version, custom = _picked(codes, found.OpcodeIndex())
    inputs = [int(index) for index in (found.InputsAsNumpy() if found.InputsLength() else ())]
    outputs = [int(index) for index in (found.OutputsAsNumpy() if found.OutputsLength() else ())]
    taken = tuple(None if index == -1 else _picked(tensors, index) for index in inputs)
    given = tuple(_picked(tensors, index) for index in outputs)
    operator = Operator(name, version, custom, taken, given, _options(found))
    for tensor in operator.outputs:
        tensor.maker = operator
    return operator


def _options(found):
    table, kind = found.BuiltinOptions(), _UNION.get(found.BuiltinOptionsType(), "NONE")
    if table is None or not hasattr(schema, kind):
        return {}
    options = getattr(schema, kind)()
    options.Init(table.Bytes, table.Pos)
    return {name: getattr(options, name)() for name in _OPTIONS if hasattr(options, name)}


def _signatures(model, graphs):
    """(texts like "serving_default: image -> logits"), and the first one's names {Tensor: name} of inputs, outputs."""
    texts, names = [], ({}, {})
    for number in range(model.SignatureDefsLength()):
        found = model.SignatureDefs(number)
        tensors = _picked(graphs, found.SubgraphIndex())
        inputs = {
            _text(part.Name()): _picked(tensors, part.TensorIndex())
            for part in map(found.Inputs, range(found.InputsLength()))
        }
        outputs = {
            _text(part.Name()): _picked(tensors, part.TensorIndex())
            for part in map(found.Outputs, range(found.OutputsLength()))
        }
        texts.append(f"{_text(found.SignatureKey())}: {', '.join(inputs)} -> {', '.join(outputs)}")
        if number == 0:
            names = tuple({tensor: name for name, tensor in parts.items()} for parts in (inputs, outputs))
    return tuple(texts), *names


def _named(indices, tensors, names):
    # An accessor gives 0 where there is no vector.
    picked = [_picked(tensors, int(index)) for index in (() if isinstance(indices, int) else indices)]
    return {names.get(tensor, tensor.name): tensor for tensor in picked}


def _picked(items, index):
    if not 0 <= index < len(items):
        raise DamagedError("it names a part that it lacks")
    return items[index]


def _text(content):
    """Safe to print on one line, whatever the file holds."""
    text = (content or b"").decode(errors="replace")
    return "".join(letter if letter.isprintable() else "?" for letter in text)
