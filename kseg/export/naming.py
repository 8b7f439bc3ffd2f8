"""Names in TensorFlow's graphs, which both converters go through."""

from contextlib import nullcontext

from kseg.errors import need


def outer_scope(model):
    """A context to call a model in. TensorFlow refuses names at the root of a graph that begin with an underscore, as
    Keras names the layers of a class `_Gate`; Keras then leaves its own scope of that name open, in the whole process.
    """
    underscored = any(layer.name.startswith("_") for layer in model.layers)
    return need("tensorflow", "cpu").name_scope("network") if underscored else nullcontext()
