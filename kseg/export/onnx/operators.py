"""Operators that tf2onnx lacks, or gets wrong.

It rounds the division of whole numbers towards zero where TensorFlow rounds it down. Networks for any image size count
with negative sizes: what is missing to the next multiple of 32 is -height % 32. And it leaves Erfc (of Keras's GELU)
and Expm1 (of CELU) in the graph, which ONNX does not have.
"""

import numpy as np

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
    rest = graph.make_node("Mod", [number, divisor])
    multiple = graph.make_node("Sub", [number, rest.output[0]])
    _replace(graph, node, "Div", [multiple.output[0], divisor])


def _is_float(graph, node):
    onnx = need("onnx", "onnx")
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    return graph.get_dtype(node.input[0]) in floats


def erfc(graph, node, *_):
    """1 - erf(x)."""
    error = graph.make_node("Erf", node.input)
    _replace(graph, node, "Sub", [_one(graph, node), error.output[0]])


def expm1(graph, node, *_):
    """exp(x) - 1, whose error near 0 is that of float32 near 1, 6e-8."""
    power = graph.make_node("Exp", node.input)
    _replace(graph, node, "Sub", [power.output[0], _one(graph, node)])


def _one(graph, node):
    """Name of a constant of the type that a node reads."""
    dtype = need("onnx.helper", "onnx").tensor_dtype_to_np_dtype(graph.get_dtype(node.input[0]))
    return graph.make_const(f"{node.name}/one", np.ones((), dtype)).output[0]


def _replace(graph, node, operator, inputs):
    """Put an operator on `inputs` in the place of a node."""
    shapes, dtypes, outputs = node.output_shapes, node.output_dtypes, node.output
    graph.remove_node(node.name)
    graph.make_node(operator, inputs, name=node.name, outputs=outputs, shapes=shapes, dtypes=dtypes)


HANDLERS = {"FloorMod": (floor_mod, []), "FloorDiv": (floor_div, []), "Erfc": (erfc, []), "Expm1": (expm1, [])}
