"""A .tflite file with one subgraph as a Python object whose weights are NumPy arrays, and back to a file.

The schema's own classes carry the structure, which is small. The weights never pass through them: they are written
once, from where they lie, into a buffer of the final size.
"""

from copy import copy
from dataclasses import dataclass, field, replace

import flatbuffers
import numpy as np

from kseg.errors import need
from kseg.export.errors import ConversionError

schema = need("ai_edge_litert.schema_py_generated", "tflite")
CODES = {name: value for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
NAMES = {value: name for name, value in CODES.items()}
TYPES = {
    np.dtype(name): getattr(schema.TensorType, name.upper())
    for name in ("float32", "float16", "int8", "uint8", "int16", "int32", "int64", "bool")
}
# What a flatbuffer's 32-bit offsets reach.
_LARGEST_BYTES = 2**31 - 2**20
# TFLite maps weights into memory and wants them aligned so.
_ALIGNMENT_BYTES = 16


@dataclass(eq=False)
class Operator:
    """One operator; `inputs` and `outputs` are tensors' indices, -1 for an input left out."""

    name: str
    version: int
    inputs: list
    outputs: list
    options: object = None
    options_type: int = 0


@dataclass(eq=False)
class Network:
    """The content of a .tflite file.

    Attributes:
        tensors: list of schema.TensorT; their `buffer` is set when the file is written.
        operators: list of Operator, in an order in which they can be run.
        constants: {index of a tensor: NumPy array}.
        inputs, outputs: {name in the signature: index of a tensor}.
        description: what the file says of itself.
        metadata: {name: bytes}.
    """

    tensors: list
    operators: list
    constants: dict
    inputs: dict
    outputs: dict
    description: str = ""
    metadata: dict = field(default_factory=dict)

    def add_tensor(self, name, shape, dtype, array=None, quantization=None):
        """Append a tensor, constant if an array is given; returns its index."""
        tensor = schema.TensorT(name=name, shape=[*map(int, shape)], type=TYPES[np.dtype(dtype)])
        tensor.quantization, tensor.hasRank = quantization, True
        self.tensors.append(tensor)
        if array is not None:
            self.constants[len(self.tensors) - 1] = array
        return len(self.tensors) - 1

    def dtype(self, index):
        """NumPy dtype of a tensor; None for types that segmentation networks do not have."""
        return next((dtype for dtype, code in TYPES.items() if code == self.tensors[index].type), None)

    def copy(self):
        """A Network of its own that shares the constants' arrays."""
        operators = [
            replace(op, inputs=[*op.inputs], outputs=[*op.outputs], options=copy(op.options)) for op in self.operators
        ]
        tensors = [copy(tensor) for tensor in self.tensors]
        return replace(
            self,
            tensors=tensors,
            operators=operators,
            constants=dict(self.constants),
            inputs=dict(self.inputs),
            outputs=dict(self.outputs),
            metadata=dict(self.metadata),
        )

    def users(self, index):
        """The operators that take a tensor."""
        return [operator for operator in self.operators if index in operator.inputs]

    def maker(self, index):
        """The operator that gives a tensor, or None."""
        return next((operator for operator in self.operators if index in operator.outputs), None)


def parse(content):
    """bytes of a .tflite file -> Network. Its signature, if it has one, names inputs and outputs."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    if len(model.subgraphs) != 1:
        raise ConversionError(
            f"the network has {len(model.subgraphs)} subgraphs, and only one works: conditions and loops "
            f"(keras.ops.cond, while_loop, fori_loop) bring further ones"
        )
    (graph,) = model.subgraphs
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    operators = [
        Operator(
            NAMES[codes[op.opcodeIndex]],
            model.operatorCodes[op.opcodeIndex].version,
            [int(index) for index in op.inputs],
            [int(index) for index in op.outputs],
            op.builtinOptions,
            op.builtinOptionsType,
        )
        for op in graph.operators or []
    ]
    network = Network(graph.tensors, operators, {}, {}, {})
    for index, tensor in enumerate(graph.tensors):
        tensor.name = tensor.name.decode()
        data = model.buffers[tensor.buffer].data
        dtype = network.dtype(index)
        if data is not None and len(data) and dtype is not None:
            shape = [] if tensor.shape is None else tensor.shape
            network.constants[index] = np.frombuffer(data.tobytes(), dtype).reshape(shape)
    for signature in model.signatureDefs or []:
        network.inputs = {part.name.decode(): part.tensorIndex for part in signature.inputs}
        network.outputs = {part.name.decode(): part.tensorIndex for part in signature.outputs}
    return network


def write(network, path):
    """Write a Network as a .tflite file.

    Raises:
        ConversionError: it is larger than the format allows.
        OSError: the file cannot be written.
    """
    _drop_unused(network)
    size = sum(array.nbytes + 2 * _ALIGNMENT_BYTES for array in network.constants.values())
    size += 2**20 + 2000 * (len(network.tensors) + len(network.operators))
    if size > _LARGEST_BYTES:
        raise ConversionError(f"{path.name}: {size / 1e9:.1f} GB of weights; a .tflite file holds 2 GB")
    builder = flatbuffers.Builder(size)
    builder.Finish(_model(network).Pack(builder), file_identifier=b"TFL3")
    with open(path, "wb") as file:
        file.write(memoryview(builder.Bytes)[builder.Head() :])  # builder.Output() would copy it


def _drop_unused(network):
    """Keep only the tensors that something uses, and the operators that lead to an output."""
    wanted, operators = set(network.outputs.values()), []
    for operator in reversed(network.operators):
        if wanted.intersection(operator.outputs):
            wanted.update(operator.inputs)
            operators.append(operator)
    network.operators = operators[::-1]
    wanted.update(network.inputs.values())
    for operator in network.operators:
        wanted.update(operator.outputs)
    kept = sorted(wanted - {-1})
    place = {old: new for new, old in enumerate(kept)} | {-1: -1}
    network.tensors = [network.tensors[old] for old in kept]
    network.constants = {place[old]: array for old, array in network.constants.items() if old in place}
    for operator in network.operators:
        operator.inputs = [place[index] for index in operator.inputs]
        operator.outputs = [place[index] for index in operator.outputs]
    for names in (network.inputs, network.outputs):
        names.update({name: place[index] for name, index in names.items()})


class _Data(schema.BufferT):
    """A buffer that copies its array once, straight into the file's memory, aligned."""

    def Pack(self, builder):
        offset = None
        if self.data is not None:
            builder.StartVector(1, self.data.nbytes, _ALIGNMENT_BYTES)
            builder.head = builder.Head() - self.data.nbytes
            place = np.frombuffer(builder.Bytes, self.data.dtype, self.data.size, builder.Head())
            place.reshape(self.data.shape)[...] = self.data
            offset = builder.EndVector()
        schema.BufferStart(builder)
        if offset is not None:
            schema.BufferAddData(builder, offset)
        return schema.BufferEnd(builder)


def _model(network):
    buffers = [_Data()]  # the first one is empty, and that of every tensor without data
    for index, tensor in enumerate(network.tensors):
        array = network.constants.get(index)
        tensor.buffer = 0
        if array is not None:
            tensor.buffer = len(buffers)
            buffers.append(_Data(data=array))
    codes, operators = {}, []
    for op in network.operators:
        place = codes.setdefault((op.name, op.version), len(codes))
        operators.append(schema.OperatorT(place, op.inputs, op.outputs, op.options_type, op.options))
    metadata = []
    for name, content in network.metadata.items():
        metadata.append(schema.MetadataT(name=name, buffer=len(buffers)))
        buffers.append(_Data(data=np.frombuffer(content, np.uint8)))
    graph = schema.SubGraphT(
        tensors=network.tensors,
        inputs=[*network.inputs.values()],
        outputs=[*network.outputs.values()],
        operators=operators,
        name="main",
    )
    return schema.ModelT(
        version=3,
        operatorCodes=[_code(name, version) for name, version in codes],
        subgraphs=[graph],
        description=network.description,
        buffers=buffers,
        metadata=metadata,
        signatureDefs=[_signature(network)],
    )


def _code(name, version):
    # Old readers know only codes up to 127, in a field of their own.
    return schema.OperatorCodeT(min(CODES[name], 127), None, version, CODES[name])


def _signature(network):
    def named(parts):
        return [schema.TensorMapT(name=name, tensorIndex=index) for name, index in parts.items()]

    return schema.SignatureDefT(named(network.inputs), named(network.outputs), "serving_default", 0)
