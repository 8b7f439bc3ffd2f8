"""Division of whole numbers for tf2onnx, which rounds it towards zero where TensorFlow rounds it down.

Networks for any image size count with negative sizes: what is missing to the next multiple of 32 is -height % 32.
"""

from kseg.errors import need


def floor_mod(graph, node, *_):
    """TensorFlow's FloorMod."""
    if _is_float(graph, node):
        need("tf2onnx.onnx_opset.math", "onnx").FloorMod.version_7(graph, node)
    else:
        node.type = "Mod"  # of whole numbers it has the sign of the divisor, like Python's


def floor_div(graph, node, *_):
    """TensorFlow's FloorDiv."""
    if _is_float(graph, node):
        need("tf2onnx.onnx_opset.math", "onnx").FloorDiv.version_6(graph, node)
        return
    number, divisor = node.input
    shapes, types, outputs = node.output_shapes, node.output_dtypes, node.output
    graph.remove_node(node.name)
    rest = graph.make_node("Mod", [number, divisor])
    multiple = graph.make_node("Sub", [number, rest.output[0]])
    graph.make_node("Div", [multiple.output[0], divisor], name=node.name, outputs=outputs, shapes=shapes, dtypes=types)


def _is_float(graph, node):
    onnx = need("onnx", "onnx")
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    return graph.get_dtype(node.input[0]) in floats


HANDLERS = {"FloorMod": (floor_mod, []), "FloorDiv": (floor_div, [])}
