"""Trained model -> exported file with its card, which appear only once they are proven, together or not at all."""

import itertools
import json
import os
import shutil
import tempfile
import time
from importlib import metadata
from pathlib import Path

import keras
import numpy as np

import kseg
from kseg import runtime
from kseg.errors import InputError, need
from kseg.export import onnx, tflite
from kseg.export.inference import inference_model
from kseg.export.parity import check_parity, check_rebuilt
from kseg.files import is_disk_full
from kseg.runtime.card import Card, sha256_of

PRECISIONS = {"tflite": tflite.PRECISIONS, "onnx": onnx.PRECISIONS}
_MAKERS = {"tflite": ("tensorflow-cpu", "tensorflow", "ai-edge-litert"), "onnx": ("tf2onnx", "onnx", "onnxruntime")}


def export(
    model,
    labels,
    path,
    *,
    format,  # the word that users know; the built-in is not used here
    verification,
    precision="float32",
    size_px=None,
    calibration=None,
    verification_data="",
):
    """Write a trained network as a file that runs without Keras, with its card beside it, proven on real images.

    The file is written in a temporary folder beside `path`, compared there with the Keras model through
    `kseg.runtime`, and only then put in its place. Whatever goes wrong (Ctrl-C and a full disk too), nothing is left,
    and a file that was there before is not harmed.

    Args:
        model: functional or sequential keras.Model, RGB [B, H, W, 3] in 0..255 -> [B, H, W, classes].
        labels: LabelSet of the network's classes.
        path: the file to write, ending in ".tflite" or ".onnx"; its folder is made where it lacks.
        format: "tflite" or "onnx".
        verification: iterable of (image uint8 [H, W, 3], label int [H, W] or None), see `check_parity`.
        precision: one of PRECISIONS[format].
        size_px: (height, width) of the file's images; None: the model's own, where it has one.
        calibration: iterable of images uint8 [H, W, 3], needed for "int8" only.
        verification_data: where the verification images come from, for the card.
    Returns:
        The Card that was written.
    Raises:
        InputError: an argument or the data is not what it must be, or the disk is full.
        ConversionError: the network cannot be expressed in the format.
        ParityError: the file says something else than the model.
    """
    path = Path(path)
    _check_request(model, labels, path, format, precision)
    network = inference_model(model, size_px)
    classes = network.output_shape[-1]
    if classes != len(labels):
        raise InputError(f"{model.name}: has {classes} classes, the label set {len(labels)}")
    pairs = iter(verification)
    first = next(pairs, None)
    if first is None:
        raise InputError(f"{path.name}: there are no images to check the file with: give some (--verify DATA)")
    check_rebuilt(model, network, first[0])  # before the converters, which crash on some networks that compute NaN
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".exporting-", dir=path.parent) as folder:
            file = Path(folder, path.name)
            card, files = _convert(network, labels, file, format, precision, calibration)
            card.save(file)
            predictor = runtime.load(file)
            pairs = itertools.chain([first], pairs)
            card = card.with_parity(check_parity(network, predictor, pairs, verification_data))
            _publish([*files, card.save(file)], path.parent)
    except Exception as error:
        if is_disk_full(error):
            raise InputError(f"{path.parent}: no space left on the disk; nothing was written") from error
        raise
    return card


def _check_request(model, labels, path, format, precision):
    if keras.backend.backend() != "tensorflow":
        raise InputError(
            "the converters need Keras on TensorFlow: set the environment variable KERAS_BACKEND=tensorflow"
        )
    if format not in PRECISIONS:
        raise InputError(f"`format` must be one of {', '.join(PRECISIONS)}. Received: {format}")
    if precision not in PRECISIONS[format]:
        raise InputError(f"{format} files come in {', '.join(PRECISIONS[format])}. Received: {precision}")
    if path.suffix != f".{format}":
        raise InputError(f"{path}: a {format} file must end in .{format}")
    for module in {"tflite": ("ai_edge_litert",), "onnx": ("onnx", "tf2onnx", "onnxruntime")}[format]:
        need(module, format)  # before the long work, not after it


def _convert(network, labels, file, format, precision, calibration):
    """Write the file; return (its card, still without parity; the paths written)."""
    start = time.perf_counter()
    if format == "tflite":
        file.write_bytes(tflite.to_tflite(network, precision, calibration))
        files = [file]
    else:
        told = {"labels": json.dumps(labels.to_dict()), "network": network.name, "kseg": kseg.__version__}
        files = onnx.write_onnx(network, file, precision, told)
    seconds = time.perf_counter() - start
    card = Card(
        file=file.name,
        sha256=sha256_of(file),
        network=network.name,
        labels=labels,
        input={
            "shape": [int(edge) for edge in network.input_shape],
            "dtype": "uint8" if precision == "int8" else "float32",
            "range": [0, 255],
        },
        output={"kind": _output_kind(network), "shape": [int(edge) for edge in network.output_shape]},
        precision=precision,
        versions=_versions(format),
        external_data={"file": files[1].name, "sha256": sha256_of(files[1])} if len(files) > 1 else None,
        conversion={"seconds": round(seconds, 2)},
    )
    return card, files


def _output_kind(network):
    activation = getattr(network.layers[-1], "activation", None)
    return "probabilities" if getattr(activation, "__name__", "") in ("softmax", "sigmoid") else "logits"


def _versions(format):
    found = {"kseg": kseg.__version__, "keras": keras.__version__, "numpy": np.__version__}
    for name in ("tensorflow-cpu", "tensorflow", *_MAKERS[format]):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # TensorFlow is there under one of its two names
    return found


def _publish(files, folder):
    """Move finished files to `folder`, each in one step; when one cannot be moved, all is put back as it was."""
    for file in files:
        with open(file, "rb+") as written:
            os.fsync(written.fileno())
    moves = [(file, folder / file.name, file.with_name(file.name + ".old")) for file in files]
    try:
        for _, target, old in moves:
            if target.exists():
                _keep(target, old)
        for file, target, _ in moves:
            os.replace(file, target)
    except BaseException:
        for file, target, old in moves:
            if old.exists():
                os.replace(old, target)
            elif not file.exists():
                target.unlink(missing_ok=True)
        raise


def _keep(file, old):
    try:
        os.link(file, old)  # a second name costs no space, and `file` never goes missing
    except OSError:  # some file systems know no second names
        shutil.copy2(file, old)
