"""TensorFlow's converter as it is, weights and all: for networks that compute with their weights what only it can."""

from kseg.errors import need
from kseg.export.errors import ConversionError
from kseg.export.tflite.flatbuffer import parse
from kseg.runtime.chatter import muted


def plain(model, output="logits"):
    """Convert an inference model; costs several times the memory of its weights.

    Args:
        model: keras.Model, float32 or uint8 [1, H, W, 3] -> scores or labels.
        output: name of the output in the signature.
    Returns:
        Network in float32.
    Raises:
        ConversionError: the network cannot be expressed in TFLite's built-in operators.
    """
    tf = need("tensorflow", "cpu")
    holder = tf.Module()
    # The converter finds the weights only through a module that holds the variables themselves: given the Keras
    # model it loses them without a word, and the file then computes NaN.
    holder.held = [variable.value for variable in model.variables]
    holder.predict = tf.function(
        lambda image: {output: model(image, training=False)},
        input_signature=[tf.TensorSpec(model.inputs[0].shape, model.inputs[0].dtype, name="image")],
    )
    try:
        with muted():
            function = holder.predict.get_concrete_function()
            converter = tf.lite.TFLiteConverter.from_concrete_functions([function], holder)
            # No SELECT_TF_OPS: a file with Flex operators needs TensorFlow on the device.
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
            content = converter.convert()
    except (MemoryError, OSError):
        raise
    except Exception as error:  # the converter raises whatever its passes raise
        raise ConversionError(f"{model.name}: TFLite: {first_line(error)}") from error
    return parse(content)


def first_line(error):
    """What an exception says, in one line, without the places in the code that TensorFlow puts before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if "Error" in line or "Exception" in line or "error:" in line]
    return (said or lines or [type(error).__name__])[0]
