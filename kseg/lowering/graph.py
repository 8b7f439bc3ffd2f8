"""A functional model as a list of steps that can be rewritten, and built into a model again.

Only what a pass changes gets weights of its own: every other layer of the new model is the very layer of the old one,
called once more, so that a network of half a gigabyte is not held twice.
"""

import copy
import itertools
from dataclasses import dataclass, field

import keras
import numpy as np

from kseg import layers
from kseg.errors import InputError, one_line

_PREDICTS_LIKE = {
    layers.BatchNormalization: keras.layers.BatchNormalization,
    layers.Conv2D: keras.layers.Conv2D,
    layers.Conv2DTranspose: keras.layers.Conv2DTranspose,
}


class Value:
    """A tensor of the graph; `shape` is the one that the model told, of which sizes may be None."""

    def __init__(self, shape):
        self.shape = tuple(shape)


@dataclass(eq=False)
class Step:
    """One operation.

    Attributes:
        operation: a Keras layer or an operation of keras.ops.
        args, kwargs: what it is called with; tensors stand as `Value`.
        outputs: list of Values.
        weights: NumPy arrays for a layer that is new; None: those that `operation` holds.
    """

    operation: object
    args: tuple
    kwargs: dict
    outputs: list
    weights: list | None = None

    @property
    def inputs(self):
        """The Values among the arguments."""
        return [leaf for leaf in keras.tree.flatten((self.args, self.kwargs)) if isinstance(leaf, Value)]

    @property
    def output(self):
        """The one output of most steps."""
        (output,) = self.outputs
        return output

    @property
    def name(self):
        return self.operation.name

    @property
    def kind(self):
        """The class of the operation; Keras's for the layers of kseg that differ from it in training only."""
        return _PREDICTS_LIKE.get(type(self.operation), type(self.operation))

    def is_a(self, *kinds):
        """Whether the operation is of exactly one of these kinds: a subclass may compute something else."""
        return self.kind in kinds

    def arrays(self):
        """The layer's weights as NumPy arrays, in the order of `layer.weights`; not copied where it can be avoided."""
        return self.weights if self.weights is not None else [as_array(weight) for weight in self.operation.weights]

    def replace(self, operation, weights=None):
        """Let another operation stand here, with the same arguments and outputs."""
        self.operation, self.weights = operation, weights


@dataclass(eq=False)
class Graph:
    """Steps in an order in which they can be computed, from one `image` to one `output`.

    Attributes:
        image, output: Values.
        steps: list of Step.
        name: of the model.
    """

    image: Value
    output: Value
    steps: list = field(default_factory=list)
    name: str = "network"

    def users(self, value):
        """The steps that take a Value."""
        return [step for step in self.steps if any(value is taken for taken in step.inputs)]

    def only_user(self, value):
        """The one step that takes a Value which is not the graph's output, or None."""
        users = self.users(value)
        return users[0] if len(users) == 1 and value is not self.output else None

    def maker(self, value):
        """The step whose output a Value is; None for the image."""
        return next((step for step in self.steps if any(value is made for made in step.outputs)), None)

    def redirect(self, old, new):
        """Let all that takes `old` take `new`."""
        for step in self.steps:
            step.args, step.kwargs = keras.tree.map_structure(
                lambda leaf: new if leaf is old else leaf, (step.args, step.kwargs)
            )
        if self.output is old:
            self.output = new

    def remove(self, step):
        """Take out a step with one input and one output of the same shape."""
        (source,) = step.inputs
        self.steps.remove(step)
        self.redirect(step.output, source)

    def append(self, operation, shape):
        """Add a step after the output, which its result becomes."""
        self.steps.append(Step(operation, (self.output,), {}, [Value(shape)]))
        self.output = self.steps[-1].output


def as_array(variable):
    """The value of a Keras variable as a NumPy array, which on TensorFlow shares its memory; of bfloat16, which NumPy
    does not know, in float32."""
    value = variable.value
    if variable.dtype == "bfloat16":
        return keras.ops.convert_to_numpy(keras.ops.cast(value, "float32"))
    if keras.backend.backend() == "tensorflow":
        return np.asarray(memoryview(value.read_value() if hasattr(value, "read_value") else value))
    return np.asarray(value)


def check_functional(model):
    """Raise ValueError for a model of which only its own `call` knows what it computes."""
    if not getattr(model, "inputs", None) or not _is_functional(model):
        told = type(model).__name__
        if getattr(model, "inputs", None):
            told += ", whose call() is its own"
        elif isinstance(model, keras.Sequential):
            told += " that has no input yet: let keras.Input((height, width, 3)) come first"
        raise ValueError(f"`model` must be a functional or sequential Keras model. Received: {told}")


def plain_ends(model):
    """A functional or sequential model of one input and one output -> (its input, its output), Keras tensors.

    However they were declared: alone, in a list or in a dict; a sequential model tells `input` only once called.
    """
    return model.inputs[0], model.outputs[0]


def read(model):
    """Return the Graph of a functional or sequential model with one input and one output; inner models are opened.

    Raises:
        ValueError: the model is neither functional nor sequential.
    """
    check_functional(model)
    graph = Graph(Value(model.inputs[0].shape), None, name=model.name)
    (graph.output,) = _read_into(graph, model, [graph.image])
    return graph


def _read_into(graph, model, images):
    functional = _functional(model)
    values = {id(tensor): value for tensor, value in zip(functional.inputs, images, strict=True)}

    def as_value(leaf):
        return values[id(leaf)] if isinstance(leaf, keras.KerasTensor) else leaf

    for depth in sorted(functional._nodes_by_depth, reverse=True):
        for node in functional._nodes_by_depth[depth]:
            if node.is_input:
                continue
            args, kwargs = keras.tree.map_structure(as_value, (node.arguments.args, dict(node.arguments.kwargs)))
            if getattr(node.operation, "lora_enabled", False):
                raise InputError(
                    f"{node.operation.name}: has weights of LoRA beside its own; save the weights, which adds "
                    f"them up, and load them into one without"
                )
            outputs = [Value(tensor.shape) for tensor in node.outputs]
            if _is_functional(node.operation):
                outputs = _read_into(graph, node.operation, _given(node.operation, args, kwargs))
            else:
                graph.steps.append(Step(node.operation, args, kwargs, outputs))
            values.update({id(tensor): value for tensor, value in zip(node.outputs, outputs, strict=True)})
    return [values[id(tensor)] for tensor in functional.outputs]


def _given(model, args, kwargs):
    """The Values for the inputs of an inner model, in its order. A dict is taken by name, and may hold more."""
    inputs = args[0] if args else kwargs["inputs"]
    if isinstance(inputs, dict) and not isinstance(_functional(model)._inputs_struct, dict):
        return [inputs[tensor.name] for tensor in _functional(model).inputs]
    return keras.tree.flatten(inputs)


def _functional(model):
    return model._functional if isinstance(model, keras.Sequential) else model


def _is_functional(operation):
    if not isinstance(operation, keras.Model) or type(operation).call.__module__.partition(".")[0] != "keras":
        return False  # with a `call` of its own it may compute more than its layers say
    return isinstance(operation, keras.Sequential) or hasattr(operation, "_nodes_by_depth")


def build(graph, shape, dtype="float32", share=True):
    """Make a model of a Graph.

    Args:
        shape: of the image, [1, H, W, 3], where sizes may be None.
        dtype: of the image.
        share: let layers that stay as they are share their weights with the model that was read.
    Returns:
        (keras.Model, {Value: Keras tensor}).
    """
    image = keras.Input(batch_shape=shape, dtype=dtype, name="image")
    tensors = {graph.image: image}
    steps = _needed(graph)
    names, taken = {step.name for step in steps}, {"image"}
    stand_ins, pending = {}, []  # a layer that is called several times stays one layer
    for step in steps:
        if id(step.operation) not in stand_ins:
            name = step.name if step.name not in taken else _free_name(step.name, names | taken)
            operation, weights = _stand_in(step, name, share)
            stand_ins[id(step.operation)] = operation
            taken.add(name)
            if weights is not None:
                pending.append((operation, weights))
        operation = stand_ins[id(step.operation)]
        args, kwargs = keras.tree.map_structure(
            lambda leaf: tensors[leaf] if isinstance(leaf, Value) else leaf, (step.args, step.kwargs)
        )
        made = keras.tree.flatten(operation(*args, **kwargs))
        tensors.update(zip(step.outputs, made, strict=True))
    model = keras.Model(image, tensors[graph.output], name=graph.name)
    for layer, weights in pending:
        for variable, value in zip(layer.weights, weights, strict=True):
            variable.assign(keras.ops.cast(value, variable.dtype))
        for part in layer._flatten_layers():
            if isinstance(part, keras.layers.Normalization):
                part.finalize_state()  # it computes with what it makes of its weights here
    return model, tensors


def _stand_in(step, name, share):
    """(what is called in the new model in place of a step's operation, the weights that it is to get or None)."""
    operation, weights = step.operation, step.weights
    if not isinstance(operation, keras.Layer):
        return (operation if name == step.name else _renamed(operation, name)), None
    if name == step.name and (weights is not None or (share and _is_float32(operation))):
        return operation, weights
    return _float32_copy(operation, name), step.arrays()


def _free_name(name, taken):
    return next(free for free in (f"{name}_{number}" for number in itertools.count(1)) if free not in taken)


def _needed(graph):
    """The steps on which the output depends, in order."""
    wanted, needed = {graph.output}, []
    for step in reversed(graph.steps):
        if wanted.intersection(step.outputs):
            wanted.update(step.inputs)
            needed.append(step)
    return needed[::-1]


def _is_float32(operation):
    if not isinstance(operation, keras.Layer):
        return True  # a bare operation of keras.ops has neither weights nor a policy
    return all(part.compute_dtype == part.variable_dtype == "float32" for part in operation._flatten_layers())


def _float32_copy(layer, name):
    """A new layer of the same configuration, without weights yet, that computes in float32."""
    try:
        config = float32_config(layer.get_config()) | {"name": name}
        if isinstance(layer, keras.layers.Lambda):  # its code comes from this process, not from a file
            return type(layer).from_config(config, safe_mode=False)
        return type(layer).from_config(config)
    except (NotImplementedError, TypeError) as error:
        raise InputError(
            f"{layer.name}: a {type(layer).__name__} cannot be copied to float32 ({one_line(error)}); give it a "
            f'get_config() that its __init__ takes, or make it with dtype="float32"'
        ) from error


def _renamed(operation, name):
    """A bare operation of an inner model that has the name of another one."""
    twin = copy.copy(operation)
    twin.name, twin._inbound_nodes, twin._outbound_nodes = name, [], []
    return twin


def float32_config(config):
    """A configuration with every floating-point dtype policy in it, however deep, set to float32."""
    if isinstance(config, list | tuple):
        return type(config)(float32_config(part) for part in config)
    if not isinstance(config, dict):
        return config
    return {
        key: "float32" if key == "dtype" and _is_float(part) else float32_config(part) for key, part in config.items()
    }


def _is_float(dtype):
    if isinstance(dtype, dict):  # a serialized policy
        dtype = dtype.get("config", {}).get("name")
    elif isinstance(dtype, keras.DTypePolicy):
        dtype = dtype.name
    return isinstance(dtype, str) and "float" in dtype
