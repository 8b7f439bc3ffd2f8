"""The weights of an ONNX file, written once, from where they lie.

Through protobuf's own classes each would be copied three or four times. In the format a tensor is a short head and
its bytes, so the file is put together here: the structure as protobuf gives it, then head and bytes of every weight.
"""

import numpy as np

from kseg.errors import need

# A protobuf cannot exceed 2 GB; what is left below the limit is for the structure.
EXTERNAL_ABOVE_BYTES = 2_000_000_000
# ONNX Runtime maps external data into memory, and wants it to start on a page.
_ALIGNMENT_BYTES = 4096
# Turned, a weight goes to the file in pieces of about this size, which fit into a processor's cache.
PIECE_BYTES = 2**22
# Field numbers of onnx.proto, as tags of length-delimited fields.
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW_DATA = (bytes([number << 3 | 2]) for number in (7, 5, 9))


def halve(graph, weights):
    """Store the float32 kernels in half precision; a Cast in front of their use brings them back to float32.

    Interpreters fold that Cast when they load the file. Vectors (biases, scales) stay: they are small and delicate.

    Args:
        graph: GraphProto; changed in place.
        weights: {name: NumPy array}.
    Returns:
        {name: NumPy array}, with the kernels under new names.
    """
    onnx = need("onnx", "onnx")
    result = {}
    for name, value in weights.items():
        if value.dtype == np.float32 and value.ndim >= 2:
            with np.errstate(over="ignore"):  # beyond 65504 it becomes infinite, and the parity check fails
                result[name + "_float16"] = value.astype(np.float16)
            cast = onnx.helper.make_node("Cast", [name + "_float16"], [name], name + "_cast", to=onnx.TensorProto.FLOAT)
            graph.node.insert(0, cast)
        else:
            result[name] = value
    return result


def write(proto, weights, path, external_above_bytes=EXTERNAL_ABOVE_BYTES):
    """Write a graph and its weights to `path`, and to `path` + ".data" what a protobuf cannot hold.

    Args:
        proto: ModelProto without these weights; left as it is.
        weights: {name of an initializer: NumPy array}.
    Returns:
        The paths written.
    Raises:
        OSError: a file cannot be written.
    """
    if sum(value.nbytes for value in weights.values()) <= external_above_bytes:
        with open(path, "wb") as file:
            _write_embedded(proto, weights, file)
        return [path]
    data = path.with_name(path.name + ".data")
    whole = type(proto)()
    whole.CopyFrom(proto)
    with open(data, "wb") as file:
        for name, value in weights.items():
            file.write(b"\0" * (-file.tell() % _ALIGNMENT_BYTES))
            whole.graph.initializer.append(_external(name, value, data.name, file.tell()))
            _write_pieces(value, file)
    path.write_bytes(whole.SerializeToString())
    return [path, data]


def _write_embedded(proto, weights, file):
    heads = {name: _head(name, value) for name, value in weights.items()}
    sizes = {name: len(head) + weights[name].nbytes for name, head in heads.items()}
    graph = proto.graph.SerializeToString()
    initializers = sum(len(_GRAPH_INITIALIZER + _varint(size)) + size for size in sizes.values())
    rest = type(proto)()
    rest.CopyFrom(proto)
    rest.ClearField("graph")
    file.write(rest.SerializeToString())
    file.write(_MODEL_GRAPH + _varint(len(graph) + initializers) + graph)
    for name, value in weights.items():
        file.write(_GRAPH_INITIALIZER + _varint(sizes[name]) + heads[name])
        _write_pieces(value, file)


def _head(name, value):
    """All of a TensorProto but its bytes."""
    return _tensor(name, value).SerializeToString() + _TENSOR_RAW_DATA + _varint(value.nbytes)


def _tensor(name, value):
    onnx = need("onnx", "onnx")
    return onnx.TensorProto(name=name, dims=value.shape, data_type=onnx.helper.np_dtype_to_tensor_dtype(value.dtype))


def _external(name, value, location, offset):
    tensor = _tensor(name, value)
    tensor.data_location = tensor.EXTERNAL
    for key, entry in (("location", location), ("offset", offset), ("length", value.nbytes)):
        tensor.external_data.add(key=key, value=str(entry))
    return tensor


def _varint(number):
    """Protobuf's encoding of a length: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


def _write_pieces(value, file):
    """Write an array's elements in C order, little-endian, without a second array of its size."""
    value = value.astype(value.dtype.newbyteorder("<"), copy=False)
    if value.flags.c_contiguous:
        file.write(value.data)
        return
    rows = max(1, PIECE_BYTES * len(value) // max(1, value.nbytes))
    for start in range(0, len(value), rows):
        piece = value[start : start + rows].copy(order="K")  # out of the large array in its own order, which is quick,
        file.write(np.ascontiguousarray(piece).data)  # and turned inside the cache
