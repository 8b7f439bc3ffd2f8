"""Weights from files -> networks."""

import logging
import re
import warnings
from pathlib import Path

import h5py
import keras
import numpy as np

from kseg.applications.published import MOBILENET_V2_WIDTHS, VGG16, VGG16_TOP, at_hand, find_weights, mobilenet_v2_file
from kseg.applications.transplant import transplant
from kseg.errors import InputError, one_line

log = logging.getLogger("kseg")


def load_backbone(model, backbone, source, alpha):
    """Fill the layers of a backbone, "vgg16" or "mobilenet_v2" with `alpha` times its channels; see below."""
    if backbone == "vgg16":
        load_vgg16(model, source)
    else:
        load_mobilenet_v2(model, source, alpha)


def load_vgg16(model, source, fc_units=None):
    """Fill the VGG16 layers of `model` from a file of keras.applications.VGG16's weights.

    The first convolution stays random if the network takes other than three channels. One log line each says which
    layers stay random.

    Args:
        model: network with the layers block1_conv1 ... block5_conv3, and fc6, fc7 in an FCN.
        source: "imagenet" or the path of a `.h5` file in the format in which Keras publishes them.
        fc_units: channels of fc6 and fc7; None: there are none. With 4096, and a file that holds the classifier's
            fully connected layers, these become fc6 and fc7 (Long et al. 2015, section 3.1).
    Raises:
        InputError: the file is missing, damaged, or not VGG16's.
    """
    path = find_weights(source, _preferred_vgg16(fc_units))
    arrays = _read_layers(path)
    for layer in model.layers:
        if not re.fullmatch(r"block[1-5]_conv[1-3]", layer.name):  # others may be of what the network stands on
            continue
        if layer.name == "block1_conv1" and layer.kernel.shape[2] != 3:
            _log_first_random(path, layer)
            continue
        _assign(layer, arrays.get(layer.name), path)
    if fc_units is None:
        return
    if fc_units == 4096 and {"fc1", "fc2"} <= set(arrays):
        for name, dense, size in (("fc6", "fc1", 7), ("fc7", "fc2", 1)):
            kernel, bias = arrays[dense]
            # Keras flattens [7, 7, 512] row by row, which is the order of a convolution's kernel.
            _assign(model.get_layer(name), [kernel.reshape(size, size, -1, kernel.shape[-1]), bias], path)
    else:
        why = "the file holds none" if fc_units == 4096 else f"`fc_units` is {fc_units}, published ones have 4096"
        log.warning("%s: fc6 and fc7 stay random: %s", path.name, why)


def _preferred_vgg16(fc_units):
    """The file with the classifier if the network can use it and it is at hand, else the small one."""
    return VGG16_TOP if fc_units == 4096 and at_hand(VGG16_TOP) else VGG16


def load_mobilenet_v2(model, source, alpha=1.0):
    """Fill the MobileNetV2 layers of `model` from a file for keras.applications.MobileNetV2(include_top=False).

    The first convolution stays random, as a log line says, if the network takes other than three channels.

    Raises:
        InputError: the file is missing, damaged, or for another network or width.
    """
    if source == "imagenet" and alpha not in MOBILENET_V2_WIDTHS:
        widths = ", ".join(map(str, MOBILENET_V2_WIDTHS))
        raise InputError(f"ImageNet weights of MobileNetV2 exist for `alpha` {widths}. Received: {alpha}")
    path = find_weights(source, mobilenet_v2_file(alpha))
    # Files in Keras's newer format number the layers by kind: they fit only a network of the very same construction.
    published = keras.applications.MobileNetV2(
        input_shape=(None, None, 3), include_top=False, weights=None, alpha=alpha, name="published"
    )
    try:
        _load_all(published, path)
    except Exception as error:  # Keras and HDF5 raise several kinds
        raise InputError(f"{path}: not the weights of MobileNetV2 of width {alpha} ({one_line(error)})") from error
    report = transplant(published, model)
    if "Conv1" in report.skipped:
        _log_first_random(path, model.get_layer("Conv1"))


def load_weights(model, path):
    """Fill a whole network from a trained one.

    Args:
        model: the network.
        path: `.weights.h5` of the very same network; or `.keras`, from which the layers that match by name and shape
            are copied (see `transplant`), and one log line says which stay as they are.
    Raises:
        InputError: the file is missing, damaged, or does not fit.
    """
    path = Path(path)
    if not path.is_file():
        hint = '; ImageNet\'s weights go to `backbone_weights="imagenet"`' if str(path) == "imagenet" else ""
        raise InputError(f"{path}: no such weights file{hint}")
    if not path.name.endswith((".weights.h5", ".keras")):
        raise InputError(f"{path}: the weights of a network must be a .weights.h5 or a .keras file")
    try:
        if path.suffix == ".keras":
            report = transplant(keras.saving.load_model(path, compile=False), model)
        else:
            _load_all(model, path)
            return
    except Exception as error:  # Keras, zipfile and HDF5 raise several kinds
        raise InputError(f"{path}: does not fit {model.name} ({one_line(error)})") from error
    if not report.copied:
        layer, why = next(iter(report.skipped.items()))
        raise InputError(f"{path}: no layer fits {model.name}, such as {layer}: {why}")
    if report.skipped:
        log.warning("%s: %s", path.name, report)


def _load_all(model, path):
    """Load a weights file, where Keras's warnings about what did not fit are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.load_weights(path)


def _read_layers(path):
    """{layer name: [arrays]} of a weights file in Keras's first HDF5 format, in which the VGG weights are published.

    Raises:
        InputError: the file is not of that format, or damaged.
    """
    try:
        with h5py.File(path) as file:
            group = file.get("model_weights", file)  # where a whole model was saved
            names = [_text(name) for name in group.attrs["layer_names"]]
            return {
                name: [np.array(group[name][_text(key)]) for key in group[name].attrs["weight_names"]] for name in names
            }
    except (OSError, KeyError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"{path}: not a file of VGG16's weights as Keras publishes them ({one_line(error)})"
        ) from error


def _assign(layer, arrays, path):
    shapes = [tuple(array.shape) for array in arrays or ()]
    wanted = [tuple(weight.shape) for weight in layer.weights]
    if shapes != wanted:
        raise InputError(f"{path}: {layer.name} needs the shapes {wanted}, the file has {shapes or 'no such layer'}")
    layer.set_weights(arrays)


def _log_first_random(path, layer):
    log.warning("%s: %s stays random: it takes %d channels, not 3", path.name, layer.name, layer.kernel.shape[2])


def _text(name):
    return name.decode() if isinstance(name, bytes) else name
