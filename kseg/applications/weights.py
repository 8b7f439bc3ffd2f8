"""Published and trained weights -> networks."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import h5py
import keras
import numpy as np

from kseg.errors import InputError

log = logging.getLogger("kseg")

_BASE = "https://storage.googleapis.com/tensorflow/keras-applications"


@dataclass(frozen=True)
class Published:
    """A file with ImageNet weights that Keras publishes.

    Attributes:
        file: its name.
        url: its address.
        md5: as Keras publishes it, or None where Keras gives none.
    """

    file: str
    url: str
    md5: str | None


VGG16 = Published(
    "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
    f"{_BASE}/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
    "6d6bbae143d832006294945121d1f1fc",
)
VGG16_TOP = Published(
    "vgg16_weights_tf_dim_ordering_tf_kernels.h5",
    f"{_BASE}/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels.h5",
    "64373286793e3c8b2b4e3219cbf3544b",
)


def mobilenet_v2_published(alpha):
    """Keras's file for MobileNetV2 of this width."""
    file = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{float(alpha)}_224_no_top.h5"
    return Published(file, f"{_BASE}/mobilenet_v2/{file}", None)


def find_weights(source, published):
    """Return the Path of a weights file.

    Args:
        source: "imagenet", or a path.
        published: the Published file that "imagenet" stands for. It is looked for in KSEG_WEIGHTS_DIR, then in
            Keras's cache, then downloaded.
    Raises:
        InputError: there is no such file, or it can be neither found nor downloaded; the message says what is wanted
            and how to supply it.
    """
    if source != "imagenet":
        if not Path(source).is_file():
            raise InputError(f"{source}: no such weights file")
        return Path(source)
    return _at_hand(published) or _download(published, _keras_cache())


def _at_hand(published):
    for folder in (os.environ.get("KSEG_WEIGHTS_DIR"), _keras_cache()):
        if folder and (path := Path(folder, published.file)).is_file():
            return path
    return None


def _keras_cache():
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras", "models")


def _download(published, cache):
    before = (cache / published.file).exists()
    try:
        return Path(keras.utils.get_file(published.file, published.url, cache_subdir="models", file_hash=published.md5))
    except Exception as error:  # Keras raises a bare Exception where it has no connection
        if not before:  # a file with a wrong hash would otherwise stay there and be taken for good the next time
            (cache / published.file).unlink(missing_ok=True)
        checksum = f"md5 {published.md5}" if published.md5 else "no checksum is published"
        raise InputError(
            f"the ImageNet weights {published.file} ({checksum}) could not be downloaded "
            f"({' '.join(str(error).split())[:120]}). Supply the file in one of three ways: give its path as "
            f"`backbone_weights`, put it into the folder that KSEG_WEIGHTS_DIR names, or into {cache}"
        ) from error


def load_vgg16(model, source, fc_units=None):
    """Fill the VGG16 layers of `model` from a file of Keras's VGG16.

    Args:
        model: network with the layers block1_conv1 ... block5_conv3, and fc6, fc7 in an FCN.
        source: "imagenet" or a path.
        fc_units: channels of fc6 and fc7; None: there are none. With 4096, and a file that holds the classifier's
            fully connected layers, these become fc6 and fc7 (Long et al. 2015, section 3.1).
    Raises:
        InputError: the file is missing, damaged, or not VGG16's.
    """
    path = find_weights(source, _preferred_vgg16(fc_units))
    arrays = _read_layers(path)
    for layer in model.layers:
        if layer.name.startswith("block") and layer.weights:
            _assign(layer, arrays.get(layer.name), path)
    if fc_units is None:
        return
    if fc_units == 4096 and {"fc1", "fc2"} <= set(arrays):
        for name, dense, size in (("fc6", "fc1", 7), ("fc7", "fc2", 1)):
            kernel, bias = arrays[dense]
            _assign(model.get_layer(name), [kernel.reshape(size, size, -1, 4096), bias], path)
    else:
        log.info("%s: fc6 and fc7 stay random: the file or `fc_units=%d` does not hold them", path.name, fc_units)


def _preferred_vgg16(fc_units):
    """The file with the classifier if the network can use it and it is at hand, else the small one."""
    if fc_units != 4096:
        return VGG16
    return VGG16_TOP if _at_hand(VGG16_TOP) else VGG16


def load_mobilenet_v2(model, source, alpha=1.0):
    """Fill the MobileNetV2 layers of `model` from a file for keras.applications.MobileNetV2(include_top=False).

    Raises:
        InputError: the file is missing, damaged, or for another network or width.
    """
    path = find_weights(source, mobilenet_v2_published(alpha))
    network = keras.applications.MobileNetV2(
        input_shape=(None, None, 3), include_top=False, weights=None, alpha=alpha, name="published"
    )
    try:
        network.load_weights(path)
    except Exception as error:  # Keras and HDF5 raise several kinds
        raise InputError(
            f"{path}: not weights for MobileNetV2 of width {alpha} ({' '.join(str(error).split())[:120]})"
        ) from error
    transplant(network, model)


def load_weights(model, path):
    """Fill a whole network from a trained one: `.weights.h5`, or `.keras` by `transplant`.

    Raises:
        InputError: the file is missing, damaged, or does not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such weights file")
    try:
        if path.suffix == ".keras":
            report = transplant(keras.saving.load_model(path, compile=False), model)
            log.info("%s: %s", path.name, report)
        else:
            model.load_weights(path)
    except Exception as error:  # Keras, zipfile and HDF5 raise several kinds
        raise InputError(f"{path}: does not fit {model.name} ({' '.join(str(error).split())[:160]})") from error


@dataclass(frozen=True)
class Transplant:
    """What `transplant` did.

    Attributes:
        copied: names of the layers that were copied.
        skipped: name of each other layer with weights in the target -> why.
    """

    copied: tuple
    skipped: dict

    def __str__(self):
        kept = "; ".join(f"{name}: {why}" for name, why in self.skipped.items())
        return f"{len(self.copied)} layers copied" + (f", {len(self.skipped)} kept ({kept})" if kept else "")


def transplant(source, target):
    """Copy the weights of every layer that both models have under the same name and with the same shapes.

    So FCN-32s, FCN-16s and FCN-8s can be trained in stages (Long et al. 2015, section 4.2).

    Args:
        source, target: keras.Model.
    Returns:
        Transplant.
    """
    available = {layer.name: layer for layer in source.layers if layer.weights}
    copied, skipped = [], {}
    for layer in target.layers:
        if not layer.weights:
            continue
        if layer.name not in available:
            skipped[layer.name] = "not in the source"
            continue
        theirs = available[layer.name].weights
        shapes = [[tuple(w.shape) for w in weights] for weights in (theirs, layer.weights)]
        if shapes[0] != shapes[1]:
            skipped[layer.name] = f"{shapes[0]} in the source, {shapes[1]} in the target"
            continue
        layer.set_weights([np.asarray(weight) for weight in theirs])
        copied.append(layer.name)
    return Transplant(tuple(copied), skipped)


def _read_layers(path):
    """{layer name: [arrays]} of a weights file in Keras's first HDF5 format, in which the VGG weights are published.

    Raises:
        InputError: the file is not of that format, or damaged.
    """
    try:
        with h5py.File(path) as file:
            group = file.get("model_weights", file)
            return {name: [np.array(group[name][key]) for key in group[name].attrs["weight_names"]] for name in group}
    except (OSError, KeyError, AttributeError, RuntimeError) as error:
        raise InputError(f"{path}: not a readable file of VGG16's weights ({error})") from error


def _assign(layer, arrays, path):
    shapes = [tuple(array.shape) for array in arrays or ()]
    wanted = [tuple(weight.shape) for weight in layer.weights]
    if shapes != wanted:
        raise InputError(f"{path}: {layer.name} needs the shapes {wanted}, the file has {shapes or 'no such layer'}")
    layer.set_weights(arrays)
