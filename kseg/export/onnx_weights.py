"""The weights of an ONNX graph that takes them as inputs: computed through as far as they go, then attached."""

import numpy as np

from kseg.errors import need

# ONNX Runtime maps external data into memory, and wants it to start on a page.
_ALIGNMENT_BYTES = 4096


def fold(proto, weights):
    """Compute every node that depends on weights and constants alone, and take it out of the graph.

    These are the Transpose and Reshape nodes that tf2onnx puts before convolutions, and the arithmetic of batch
    normalisation. Inputs that only stood for weights are taken out as well.

    Args:
        proto: ModelProto; changed in place.
        weights: {name of a graph input: numpy array}.
    Returns:
        {name: numpy array} of the tensors that the remaining nodes need; others are dropped.
    """
    graph = proto.graph
    constant = {*weights, *(tensor.name for tensor in graph.initializer), ""}  # "": an input left out
    outputs = {output.name for output in graph.output}
    foldable, remaining = [], []
    for node in graph.node:  # tf2onnx sorts them: producers first
        alone = node.input and constant.issuperset(node.input) and not outputs.intersection(node.output)
        (foldable if alone else remaining).append(node)
        if alone:
            constant.update(node.output)
    needed = {name for node in remaining for name in node.input}
    produced = [name for node in foldable for name in node.output if name in needed]
    values = {name: value for name, value in weights.items() if name in needed}
    values.update(_evaluate(proto, foldable, weights, produced))
    _keep(graph.node, remaining)
    _keep(graph.input, [entry for entry in graph.input if entry.name not in weights])
    _keep(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed])
    del graph.value_info[:]  # shapes of tensors that are no longer there; the checker infers them anew
    return values


def _evaluate(proto, nodes, weights, names):
    """{name: numpy array}, computed with ONNX's own reference implementation of the operators."""
    if not names:
        return {}
    onnx = need("onnx", "onnx")
    evaluator = need("onnx.reference", "onnx").ReferenceEvaluator
    used = {name for node in nodes for name in node.input}
    anything = onnx.helper.make_empty_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "weights",
        [anything(name) for name in weights if name in used],
        [anything(name) for name in names],
        [tensor for tensor in proto.graph.initializer if tensor.name in used],
    )
    model = onnx.helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    feeds = {name: value for name, value in weights.items() if name in used}
    return dict(zip(names, evaluator(model).run(None, feeds), strict=True))


def _keep(repeated, entries):
    entries = [type(entry).FromString(entry.SerializeToString()) for entry in entries]
    del repeated[:]
    repeated.extend(entries)


def halve(graph, weights):
    """Store the float32 kernels in half precision; a Cast in front of their use brings them back to float32.

    Interpreters fold that Cast when they load the file. Vectors (biases, scales) stay: they are small and delicate.
    Returns {name: numpy array}, with the kernels under new names.
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


def attach(proto, weights, path, external_above_bytes):
    """Write the graph and its weights to `path`, and to `path` + ".data" what a protobuf cannot hold.

    Returns:
        The paths written.
    """
    onnx = need("onnx", "onnx")
    graph = proto.graph
    if sum(value.nbytes for value in weights.values()) <= external_above_bytes:
        graph.initializer.extend(onnx.numpy_helper.from_array(np.ascontiguousarray(v), n) for n, v in weights.items())
        path.write_bytes(proto.SerializeToString())
        return [path]
    data = path.with_name(path.name + ".data")
    with open(data, "wb") as file:
        for name, value in weights.items():
            file.write(b"\0" * (-file.tell() % _ALIGNMENT_BYTES))
            graph.initializer.append(_external(onnx, name, value, data.name, file.tell()))
            file.write(np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<"), copy=False))
    path.write_bytes(proto.SerializeToString())
    return [path, data]


def _external(onnx, name, value, location, offset):
    tensor = onnx.TensorProto(
        name=name,
        dims=value.shape,
        data_type=onnx.helper.np_dtype_to_tensor_dtype(value.dtype),
        data_location=onnx.TensorProto.EXTERNAL,
    )
    for key, entry in (("location", location), ("offset", offset), ("length", value.nbytes)):
        tensor.external_data.add(key=key, value=str(entry))
    return tensor
