"""Trained model -> exported file with its card, which appear only once they are proven, together or not at all."""

import itertools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import keras
import numpy as np

import kseg
from kseg import runtime
from kseg.data import Source
from kseg.errors import InputError, need
from kseg.export import onnx, tflite
from kseg.export.calibration import Calibration, check_image
from kseg.export.errors import ConversionError
from kseg.export.inspect import inspect
from kseg.export.parity import check_lowered, check_parity
from kseg.files import is_disk_full
from kseg.labels import LabelSet
from kseg.lowering import OUTPUTS, gives_probabilities, lower, lower_with_ranges
from kseg.runtime.card import Card, sha256_of

PRECISIONS = {"tflite": tflite.PRECISIONS, "onnx": onnx.PRECISIONS}
_MAKERS = {"tflite": ("tensorflow-cpu", "tensorflow", "ai-edge-litert"), "onnx": ("tf2onnx", "onnx", "onnxruntime")}
# Precisions whose activations are integers, so that their scales must be calibrated.
CALIBRATED = ("int8", "int16x8")
# In bytes, on all usual file systems.
_LONGEST_NAME = 255


@dataclass(frozen=True)
class _Request:
    """What kind of file is wanted."""

    format: str
    precision: str
    size_px: tuple | None
    output: str
    input_dtype: str
    resizable: bool
    float_layers: tuple
    skip: tuple


def export(
    model,
    labels,
    path,
    *,
    format,  # the word that users know; the built-in is not used here
    verification,
    precision="float32",
    size_px=None,
    output="logits",
    input_dtype=None,
    resizable=False,
    calibration=None,
    verification_data="",
    float_layers=(),
    skip=(),
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
        verification: source of kseg.data, or iterable of (image uint8 [H, W, 3], label int [H, W] or None), see
            `check_parity`.
        precision: one of PRECISIONS[format].
        size_px: (height, width) of the file's images; None: the model's own, where it has one.
        output: "logits", "probabilities" or "labels", see `kseg.lowering.lower`.
        input_dtype: of the file's image, "float32" or "uint8", both in 0..255; None: uint8 for int8 .tflite files,
            else float32.
        resizable: a file for images of any size; slower on phones, whose delegates want fixed sizes.
        calibration: Calibration, source of kseg.data, or iterable of images uint8 [H, W, 3]; for "int8" and "int16x8".
            None of them may be among those for verification.
        verification_data: where the verification images come from, for the card.
        float_layers: names of layers that stay in float in an int8 .tflite file.
        skip: names of kseg.lowering.PASSES to leave out.
    Returns:
        The Card that was written.
    Raises:
        InputError: an argument or the data is not what it must be, or the disk is full.
        ConversionError: the network cannot be expressed in the format.
        ParityError: the file says something else than the model.
    """
    path = Path(path)
    float_layers, skip = ((each,) if isinstance(each, str) else each for each in (float_layers, skip))
    input_dtype = input_dtype or ("uint8" if (format, precision) == ("tflite", "int8") else "float32")
    request = _Request(format, precision, size_px, output, input_dtype, resizable, tuple(float_layers), tuple(skip))
    _check_request(request, path)
    _check_given(labels, verification)
    calibration = _checked_calibration(calibration, precision)
    given = "float32" if format == "tflite" and precision in CALIBRATED else input_dtype
    options = {"output": output, "input_dtype": given, "skip": skip, "resizable": resizable}
    lowered = lower_with_ranges(model, size_px, **options)
    if (classes := model.output_shape[-1]) != len(labels):
        raise InputError(f"{model.name}: has {classes} classes, the label set {len(labels)}")
    rounding = lower(model, size_px, **options, keep_rounding=True) if lowered.ranges else lowered.model
    # What the file is compared with.
    reference = rounding if (format, precision) == ("tflite", "int8") else lowered.model
    pairs = _kept_apart(verification, calibration)
    first = _first(pairs, path)
    # Before the converters, which crash on some networks that compute NaN.
    scores = check_lowered(model, rounding, first[0], output)
    if reference is not rounding:
        check_lowered(model, reference, first[0], output)
    if output == "probabilities":
        _refuse_hidden_probabilities(model, scores)
    if output == "labels":  # by which NaN cannot be told
        pairs = _lowered_alike(model, rounding, pairs)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".exporting-", dir=path.parent) as folder:
            file = Path(folder, path.name)
            card, files = _convert(model, lowered, labels, file, request, calibration)
            card.save(file)
            predictor = runtime.load(file)
            pairs = itertools.chain([first], pairs)
            card = replace(card, parity=check_parity(reference, predictor, pairs, verification_data))
            _publish([*files, card.save(file)], path.parent)
    except Exception as error:
        if is_disk_full(error):
            raise InputError(f"{path.parent}: no space left on the disk; nothing was written") from error
        raise
    return card


def _check_request(request, path):
    if request.format not in PRECISIONS:
        raise InputError(f"`format` must be one of {', '.join(PRECISIONS)}. Received: {request.format}")
    if request.precision not in PRECISIONS[request.format]:
        raise InputError(
            f"{request.format} files come in {', '.join(PRECISIONS[request.format])}. Received: {request.precision}"
        )
    if request.output not in OUTPUTS:
        raise InputError(f"`output` must be one of {', '.join(OUTPUTS)}. Received: {request.output}")
    if request.input_dtype not in ("float32", "uint8"):
        raise InputError(f"`input_dtype` must be float32 or uint8. Received: {request.input_dtype}")
    if request.float_layers and (request.format, request.precision) != ("tflite", "int8"):
        raise InputError("`float_layers` are for int8 .tflite files")
    if path.suffix != f".{request.format}":
        raise InputError(f"{path}: a {request.format} file must end in .{request.format}")
    if len(os.fsencode(f"{path.name}.json")) > _LONGEST_NAME:
        raise InputError(f"{path.name[:40]}...: too long a name for a file and its card")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; a file is to be written")
    check_converter(request.format)


def _check_given(labels, verification):
    if not isinstance(labels, LabelSet):
        raise InputError(f"`labels` must be a kseg.labels.LabelSet, such as source.labels. Received: {labels!r}")
    if not isinstance(verification, Source | Iterable):
        raise InputError(f"`verification` must be images, see kseg.export.export. Received: {verification!r}")


def check_converter(format):
    """Raise InputError or ImportError before the long work where it could not be ended.

    Args:
        format: "tflite" or "onnx".
    """
    if keras.backend.backend() != "tensorflow":
        raise InputError(
            "the converters need Keras on TensorFlow: set the environment variable KERAS_BACKEND=tensorflow"
        )
    for module in {"tflite": ("ai_edge_litert",), "onnx": ("onnx", "tf2onnx", "onnxruntime")}[format]:
        need(module, format)


def _checked_calibration(calibration, precision):
    if precision not in CALIBRATED:
        return None
    if isinstance(calibration, Calibration):
        return calibration
    if isinstance(calibration, Source):
        return Calibration(tuple(calibration.load_image(index) for index in range(len(calibration))))
    return Calibration(() if calibration is None else tuple(calibration))


def _refuse_hidden_probabilities(model, scores):
    """What gives scores of 0 to 1 in a way that `gives_probabilities` does not see would get a second softmax."""
    if not gives_probabilities(model) and scores.min() >= 0 and scores.max() <= 1:
        kind = "sigmoid" if scores.shape[-1] == 1 else "softmax"
        raise InputError(
            f"{model.name}: gives scores of 0 to 1, which look like probabilities, but ends in no softmax or sigmoid "
            f"that kseg can see, and would be given a {kind}; export its logits, which are these scores"
        )


def _first(pairs, path):
    """The first pair to verify with, which tells whether there are any and whether their pixels are in 0..255."""
    first = next(pairs, None)
    if first is None:
        raise InputError(f"{path.name}: there are no images to check the file with: give some (--verify DATA)")
    greatest = np.max(first[0])
    if np.asarray(first[0]).dtype.kind == "f" and 0 < greatest <= 1:  # a dark image would hold integers
        raise InputError(
            f"{path.name}: the images to check it with reach up to {greatest:.3g}: pixels are wanted in 0..255, not "
            f"scaled to 0..1"
        )
    return first


def _lowered_alike(model, network, pairs):
    for image, label in pairs:
        check_lowered(model, network, image, "labels")
        yield image, label


def _kept_apart(verification, calibration):
    if isinstance(verification, Source):
        verification = map(verification.load, range(len(verification)))
    for pair in verification:
        if not (isinstance(pair, list | tuple) and len(pair) == 2):
            raise InputError("`verification` must be a source of kseg.data, or (image, label or None) for each image")
        image, label = pair
        check_image(image, "verification")
        if label is not None and np.ndim(label) != 2:
            raise InputError(f"a mask of `verification` must be [H, W]. Received: {np.shape(label)}")
        if calibration:
            calibration.refuse_shared(image)
        yield image, label


def _convert(model, lowered, labels, file, request, calibration):
    """Write the file; return (its card, still without parity; the paths written)."""
    network = lowered.model
    start = time.perf_counter()
    kind = "probabilities" if request.output == "logits" and gives_probabilities(model) else request.output
    if request.format == "tflite":
        told = tflite.write_tflite(
            network,
            file,
            request.precision,
            output=kind,
            labels=labels,
            calibration=calibration,
            input_dtype=request.input_dtype,
            float_layers=request.float_layers,
            trained_ranges=lowered.ranges,
        )
        files = [file]
    else:
        properties = {"labels": json.dumps(labels.to_dict()), "network": network.name, "kseg": kseg.__version__}
        images = calibration.images if calibration else None
        files = onnx.write_onnx(network, file, request.precision, properties, output=kind, calibration=images)
        told = {"converter": "structure", "opset": onnx.OPSET}
    seconds = time.perf_counter() - start
    card = Card(
        file=file.name,
        sha256=sha256_of(file),
        network=network.name,
        labels=labels,
        input={"shape": [*network.input_shape], "dtype": request.input_dtype, "range": [0, 255]},
        output={"kind": kind, "shape": [*network.output_shape]},
        precision=request.precision,
        versions=_versions(request.format),
        external_data={"file": files[1].name, "sha256": sha256_of(files[1])} if len(files) > 1 else None,
        conversion={"seconds": round(seconds, 2), **told},
        calibration=calibration.to_dict() if calibration else None,
        check=_checked(file, request.resizable, labels) if request.format == "tflite" else None,
    )
    return card, files


def _checked(file, resizable, labels):
    """What the finished .tflite file says of itself, for the card; a file that phones cannot run is refused, and one
    that calls its classes by other names. (Of an .onnx file, kseg.runtime compares the names with the card.)"""
    report = inspect(file, run=True)
    if report.flex:
        raise ConversionError(f"{file.name}: needs operators that TFLite has not built in: {', '.join(report.flex)}")
    if report.dynamic and not resizable:
        raise ConversionError(f"{file.name}: leaves sizes open: {', '.join(report.to_dict()['dynamic'])}")
    tflite.check_labels(file, labels)
    return report.to_dict()


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
