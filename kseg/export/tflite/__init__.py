"""Keras -> TFLite: built-in operators only, a batch of 1, `image` -> `logits`."""

import kseg
from kseg.export.tflite.equalise import equalise
from kseg.export.tflite.flatbuffer import write
from kseg.export.tflite.metadata import append_labels, check_labels, metadata_buffers
from kseg.export.tflite.plain import plain
from kseg.export.tflite.quantise import layer_names, layers_with_filters, quantise
from kseg.export.tflite.ranges import Measured, measure_ranges, whole
from kseg.export.tflite.structure import NotLean, structure
from kseg.export.tflite.weights import halve, quantise_weights

PRECISIONS = ("float32", "float16", "dynamic", "int8", "int16x8")
_BITS = {"int8": 8, "int16x8": 16}

__all__ = [
    "PRECISIONS",
    "NotLean",
    "calibrate",
    "check_labels",
    "convert",
    "finish",
    "layer_names",
    "layers_with_filters",
    "structure",
    "write_tflite",
]


def write_tflite(
    model,
    path,
    precision="float32",
    *,
    output="logits",
    labels=None,
    calibration=None,
    input_dtype="uint8",
    float_layers=(),
    trained_ranges=(),
):
    """Convert an inference model (see `kseg.lowering.lower`) and write it.

    Args:
        model: keras.Model, float32 or uint8 [1, H, W, 3] -> scores [1, H, W, classes] or labels [1, H, W].
        path: pathlib.Path of the .tflite file to write.
        precision: "float32"; "float16": weights stored in half precision; "dynamic": weights in 8 bits, activations
            quantised while running; "int8": everything in 8 bits; "int16x8": activations in 16, weights in 8 bits.
        output: "logits", "probabilities" or "labels": what the model gives, and the output's name in the signature.
        labels: LabelSet for the metadata, from which other programs learn the classes; None: no metadata.
        calibration: Calibration, for "int8" and "int16x8": its images' least and greatest activations set the scales.
        input_dtype: of an integer file's image, "uint8" or "float32"; `model` takes float32 for those.
        float_layers: names of layers that stay in float in an "int8" file.
        trained_ranges: of kseg.lowering.Lowered: they are taken for "int8" as they are.
    Returns:
        {"converter": "structure"}, or {"converter": "plain", "because": str}, for the card.
    Raises:
        ConversionError: the network cannot be expressed in TFLite's built-in operators.
        CheckError: an activation is not finite on a calibration image.
        OSError: the file cannot be written.
    """
    network, told, trained = convert(model, output, trained_ranges if precision == "int8" else ())
    measured = None
    if precision in _BITS:
        images = calibration.at_size(model.input_shape[1:3])
        measured = calibrate(network, images, path.parent, trained, like_channels=precision == "int8")
    if labels is not None:
        pixels = input_dtype if precision in _BITS else model.inputs[0].dtype
        network.metadata |= metadata_buffers(
            labels,
            name=model.name,
            description=f"Semantic segmentation into {len(labels)} classes",
            input_dtype=pixels,
            output=output,
            resizable=None in model.input_shape,
        )
    finish(network, path, precision, measured, input_dtype=input_dtype, float_layers=float_layers)
    if labels is not None:
        append_labels(path, labels)
    return {**told, "trained_ranges": len(trained)} if trained else told


def convert(model, output="logits", trained_ranges=()):
    """(float Network of an inference model; how it was made, for the card; {index: trained (low, high)})."""
    try:
        network = structure(model, output, [tensor for tensor, _ in trained_ranges])
        told = {"converter": "structure"}
    except NotLean as why:
        network, told = plain(model, output), {"converter": "plain", "because": str(why)}
        trained_ranges = ()  # the plain converter does not tell which tensor is which
    taps = (network.outputs.pop(f"tap_{number}") for number in range(len(trained_ranges)))
    trained = {index: limits for index, (_, limits) in zip(taps, trained_ranges, strict=True)}
    network.description = model.name
    return network, told, trained


def calibrate(network, images, folder, trained=None, *, like_channels=True):
    """What a float Network's activations reach, and their means: Measured.

    Args:
        network: Network in float32.
        images: iterable of float32 [1, H, W, 3].
        folder: where a file may lie for the time.
        trained: {index: (least, greatest)}, ranges that are taken as they are; the network is then left as it is, and
            no means are given: its weights were trained with their rounding.
        like_channels: bring the channels to like sizes first (see `kseg.export.tflite.equalise`), which changes
            the network's weights.
    """
    ranges = measure_ranges(network, images, folder)
    if trained:
        return Measured(whole(ranges) | trained, trained=frozenset(trained))
    if like_channels:
        ranges = equalise(network, ranges)
    return Measured(whole(ranges), {index: mean for index, (_, _, mean) in ranges.items()})


def finish(network, path, precision, measured=None, *, input_dtype="uint8", float_layers=()):
    """Bring a float Network to a precision, in place, and write it.

    `measured`: from `calibrate`, for integers.
    """
    if precision == "float16":
        halve(network)
    elif precision == "dynamic":
        quantise_weights(network)
    elif precision in _BITS:
        quantise(network, measured, bits=_BITS[precision], input_dtype=input_dtype, float_layers=float_layers)
    network.description = f"{network.description}, {precision}, by kseg {kseg.__version__}"
    write(network, path)
