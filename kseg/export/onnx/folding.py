"""What an ONNX graph computes from weights alone, computed once and for all."""

from kseg.errors import need


def fold(proto, weights):
    """Compute every node that depends on weights and constants alone, and take it out of the graph.

    These are the Transpose and Reshape nodes that tf2onnx puts before convolutions, and what little arithmetic the
    lowering left. Inputs that only stood for weights are taken out as well.

    Args:
        proto: ModelProto; changed in place.
        weights: {name of a graph input: NumPy array}.
    Returns:
        ({name: NumPy array} of the weights that the remaining nodes need, {name: name of the weight that it comes
        from} where that is one).
    """
    graph = proto.graph
    constant = {*weights, *(tensor.name for tensor in graph.initializer), ""}  # "": an input left out
    outputs = {output.name for output in graph.output}
    foldable, remaining, sources = [], [], {name: {name} for name in weights}
    for node in graph.node:  # tf2onnx sorts them: producers first
        alone = node.input and constant.issuperset(reads(node)) and not outputs.intersection(node.output)
        (foldable if alone else remaining).append(node)
        if alone:
            constant.update(node.output)
            together = set().union(*(sources.get(name, ()) for name in node.input))
            sources.update(dict.fromkeys(node.output, together))
    needed = {name for node in remaining for name in reads(node)}
    produced = [name for node in foldable for name in node.output if name in needed]
    values = {name: value for name, value in weights.items() if name in needed}
    values.update(_evaluate(proto, foldable, weights, produced))
    keep(graph.node, remaining)
    keep(graph.input, [entry for entry in graph.input if entry.name not in weights])
    keep(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed])
    del graph.value_info[:]  # shapes of tensors that are no longer there; the checker infers them anew
    return values, {name: next(iter(sources[name])) for name in values if len(sources[name]) == 1}


def reads(node):
    """The names of all tensors that a node reads, those of the branches of an If too, which see what is outside."""
    branches = [graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs)]
    return [*node.input, *(name for graph in branches for inner in graph.node for name in reads(inner))]


def _evaluate(proto, nodes, weights, names):
    """{name: NumPy array}, computed with ONNX's own reference implementation of the operators."""
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


def keep(repeated, entries):
    """Let these entries, copied, be all that a repeated field of a protobuf holds."""
    entries = [type(entry).FromString(entry.SerializeToString()) for entry in entries]
    del repeated[:]
    repeated.extend(entries)


def put_biases_in(graph, weights):
    """convolution, Add of a value for each channel -> convolution with a bias.

    tf2onnx leaves the two apart behind depthwise convolutions. In float, interpreters join them when they load the
    file; in 8 bits each would be rounded for itself.

    Args:
        graph: GraphProto, changed in place.
        weights: {name: NumPy array}; biases become vectors there.
    """
    users = {}
    for node in graph.node:
        for name in reads(node):
            users.setdefault(name, []).append(node)
    outputs = {output.name for output in graph.output}
    for node in list(graph.node):
        if node.op_type not in ("Conv", "ConvTranspose") or len(node.input) > 2 or node.output[0] in outputs:
            continue
        following = users.get(node.output[0], [])
        if len(following) != 1 or following[0].op_type != "Add":
            continue
        (addition,) = following
        (bias,) = (name for name in addition.input if name != node.output[0])
        if len(users[bias]) == 1 and _is_channelwise(weights.get(bias), node, weights.get(node.input[1])):
            weights[bias] = weights[bias].reshape(-1)
            node.input.append(bias)
            node.output[0] = addition.output[0]
            graph.node.remove(addition)


def _is_channelwise(values, node, kernel):
    """Whether `values` broadcasts as [1, channels, 1, 1] over what the convolution gives."""
    if values is None or kernel is None or kernel.ndim != 4:
        return False
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    channels = kernel.shape[0] if node.op_type == "Conv" else kernel.shape[1] * groups
    return values.ndim in (3, 4) and values.shape[-3:] == (channels, 1, 1) and values.size == channels
