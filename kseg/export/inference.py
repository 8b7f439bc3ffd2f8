"""The trained model, rebuilt for prediction: float32, batch 1, one fixed size.

A static shape keeps the whole graph inside one delegate on TFLite, and a float32 copy converts alike whatever
precision the model was trained in: a `.keras` file keeps the dtype policies of its layers.
"""

import keras

from kseg.errors import InputError
from kseg.export.flip import flip_kernel, foldable_flips, subtract_mean


def inference_model(model, size_px):
    """Return a float32 copy of a functional or sequential model with the input [1, height, width, 3].

    Args:
        model: keras.Model with one image input and one output [B, H, W, classes]; it is left as it is.
        size_px: (height, width), or None where the model itself has a fixed size.
    Raises:
        InputError: the model takes something else than one RGB image of that size, its scores have another size
            than its input, or its weights are not finite.
        ValueError: the model is neither functional nor sequential.
    """
    if not getattr(model, "inputs", None):
        raise ValueError(f"`model` must be a functional or sequential Keras model. Received: {type(model).__name__}")
    size_px = _fixed_size(model, size_px)
    images = keras.Input(batch_shape=(1, *size_px, 3), dtype="float32", name="image")
    flips = foldable_flips(model)

    def rebuilt(layer):
        return subtract_mean if layer in flips else _float32_layer(layer)

    copy = keras.models.clone_model(model, input_tensors=like_input(model, images), clone_function=rebuilt)
    copy = keras.Model(copy.inputs[0], copy.outputs[0], name=model.name)  # without losses, metrics and an optimizer
    for source, target in zip(model.weights, copy.weights, strict=True):
        target.assign(keras.ops.cast(source.value, target.dtype))
        if not keras.ops.all(keras.ops.isfinite(target.value)):
            # Told here: TensorFlow's 8-bit converter does not refuse them, it takes the whole process down.
            raise InputError(f"{model.name}: the weights {source.path} hold NaN or infinity: its training diverged")
    for convolution in {layer.name for used in flips.values() for layer in used}:
        flip_kernel(copy.get_layer(convolution))
    if tuple(copy.output_shape[:3]) != (1, *size_px):
        raise InputError(
            f"{model.name}: gives scores of {_by(copy.output_shape[1:3])} for an image of {_by(size_px)}; "
            f'only networks with scores of the size of the image can be exported (padding="same")'
        )
    return copy


def _fixed_size(model, size_px):
    """Check that the model takes RGB images, and return the size for the file."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise InputError(
            f"{model.name}: has {len(model.inputs)} inputs and {len(model.outputs)} outputs; only one of each works"
        )
    shape, scores = model.inputs[0].shape, model.outputs[0].shape
    if len(shape) != 4 or shape[3] != 3 or len(scores) != 4:
        raise InputError(
            f"{model.name}: maps {list(shape)} to {list(scores)}; only RGB images to scores can be exported"
        )
    own = tuple(shape[1:3])
    if size_px is None and None in own:
        raise InputError(f"{model.name}: takes images of any size; say the height and width of the exported file")
    size_px = own if size_px is None else tuple(int(edge) for edge in size_px)
    if len(size_px) != 2 or min(size_px) < 1:
        raise InputError(f"the size must be a height and a width of at least one pixel. Received: {size_px}")
    if any(edge not in (None, wanted) for edge, wanted in zip(own, size_px, strict=True)):
        raise InputError(f"{model.name}: takes images of {_by(own)} only. Received: {_by(size_px)}")
    return size_px


def _by(size_px):
    return " x ".join("any" if edge is None else str(edge) for edge in size_px)


def like_input(model, images):
    """`images` in the form in which a model of one input declared it, alone, in a list or in a dict: Keras minds."""
    declared = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    return keras.tree.map_structure(lambda _: images, declared)


def _float32_layer(layer):
    if not isinstance(layer, keras.Layer):
        return layer  # a bare operation of keras.ops: it has neither weights nor a policy
    return type(layer).from_config(_with_float32(layer.get_config()))


def _with_float32(config):
    """A layer's configuration with every floating-point dtype policy in it, however deep, set to float32."""
    if isinstance(config, list | tuple):
        return type(config)(_with_float32(part) for part in config)
    if not isinstance(config, dict):
        return config
    return {
        key: "float32" if key == "dtype" and _is_float(part) else _with_float32(part) for key, part in config.items()
    }


def _is_float(dtype):
    if isinstance(dtype, dict):  # a serialized policy
        dtype = dtype.get("config", {}).get("name")
    elif isinstance(dtype, keras.DTypePolicy):
        dtype = dtype.name
    return isinstance(dtype, str) and "float" in dtype
