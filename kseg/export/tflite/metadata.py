"""TFLITE_METADATA: what a .tflite file says of itself to MediaPipe Tasks and other clients that know no card.

A buffer of the file, itself a flatbuffer, describes the tensors; the class names lie in an uncompressed zip archive
behind the model.
"""

import unicodedata
import zipfile

import numpy as np

from kseg.errors import InputError
from kseg.export.errors import ConversionError
from kseg.export.tflite.flatbuffer import schema
from kseg.export.tflite.metadata_tables import pack, unpack

LABELS_FILE = "labels.txt"
_NAME = "TFLITE_METADATA"
_IDENTIFIER, _SEGMENTER_IDENTIFIER = b"M001", b"V001"
_SEGMENTER = "SEGMENTER_METADATA"
# The metadata parser of 1.5.0 was the first to know custom metadata, in which the activation stands.
_PARSER = "1.5.0"
_ACTIVATIONS = ("NONE", "SIGMOID", "SOFTMAX")
_RGB = 1
_AXIS_LABELS, _VALUE_LABELS = 2, 3  # each channel is a class; each value is a class


def metadata_buffers(labels, *, name, description, input_dtype="float32", output="logits", resizable=False):
    """What to put into the model's table of metadata.

    MediaPipe would run files that give labels, or that are resizable, and show an empty mask without a word. Their
    input is therefore not called an image, which makes MediaPipe refuse them.

    Args:
        labels: LabelSet.
        name: of the network.
        description: one or two sentences for people.
        input_dtype: of the file's image, "float32" or "uint8"; both hold RGB in 0..255.
        output: "logits", "probabilities" or "labels", the file's only output.
        resizable: whether height and width are open.
    Returns:
        {name of the entry: bytes}.
    """
    subgraph = {
        "input_tensor_metadata": [_image(input_dtype, runs=output != "labels" and not resizable)],
        "output_tensor_metadata": [_output(output)],
    }
    if output != "labels":
        # MediaPipe looks at the activation only for its confidence masks. One channel has no softmax.
        softmax = output == "logits" and len(labels) > 1
        options = {"activation": _ACTIVATIONS.index("SOFTMAX" if softmax else "NONE"), "min_parser_version": "1.0.0"}
        data = pack("ImageSegmenterOptions", options, _SEGMENTER_IDENTIFIER)
        subgraph["custom_metadata"] = [{"name": _SEGMENTER, "data": data}]
    model = {
        "name": name,
        "description": description,
        "subgraph_metadata": [subgraph],
        "min_parser_version": _PARSER if output != "labels" else "1.0.0",
    }
    return {_NAME: pack("ModelMetadata", model, _IDENTIFIER)}


def append_labels(file, labels):
    """Append the zip archive with labels.txt to a finished .tflite file.

    Args:
        file: its path, or the file itself, open for reading and writing in binary mode.
        labels: LabelSet. One line a class: line breaks and control characters in a name become spaces.
    """
    # zipfile appends to what is there and counts its positions from the start of the file, as the readers expect;
    # a fixed date makes equal exports equal files. Compressed archives are refused by MediaPipe.
    with zipfile.ZipFile(file, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(LABELS_FILE), _label_lines(labels).encode())


def read_metadata(path):
    """What a .tflite file says of itself.

    Returns:
        None if it says nothing, or {"name", "description", "min_parser_version", "input", "output": fields of
        TensorMetadata, "activation": "NONE", "SIGMOID", "SOFTMAX" or None, "labels": [name, ...] or None}.
    Raises:
        InputError: the file cannot be read, or its metadata is damaged.
    """
    try:
        buffer = _find(np.memmap(path, np.uint8, "r"))
        return None if buffer is None else _told(buffer, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # the reader of a damaged flatbuffer runs into whatever stands where it looks
        raise InputError(f"{path}: its metadata cannot be read; it is damaged or no TFLite file") from error


def check_labels(path, labels):
    """Raise ConversionError where a .tflite file does not call its classes what `labels` does, in that order."""
    told, wanted = read_metadata(path), _label_lines(labels).split("\n")
    if told is None or told["labels"] != wanted:
        found = "no classes" if told is None or told["labels"] is None else ", ".join(told["labels"])
        raise ConversionError(f"{path.name}: names {found} as its classes instead of {', '.join(wanted)}")


def _image(dtype, runs):
    content = {"content_properties_type": 2, "content_properties": {"color_space": _RGB}}
    image = {
        "name": "image",
        "description": "RGB image, pixel values 0 to 255",
        "dimension_names": ["batch", "height", "width", "channel"],
        "content": content if runs else {"content_properties_type": 1, "content_properties": {}},
        "stats": {"max": [255.0], "min": [0.0]},
    }
    if dtype == "float32":  # MediaPipe asks for it; the network itself does all that must be done to the pixels
        image["process_units"] = [{"options_type": 1, "options": {"mean": [0.0], "std": [1.0]}}]
    return image


def _output(kind):
    descriptions = {
        "logits": "score of every class at every pixel, before the softmax",
        "probabilities": "probability of every class at every pixel",
        "labels": "index of the class at every pixel",
    }
    output = {
        "name": kind,
        "description": descriptions[kind],
        "dimension_names": ["batch", "height", "width", *(["class"] if kind != "labels" else [])],
        "content": {"content_properties_type": 1, "content_properties": {}, "range": {"min": 1, "max": 2}},
        "associated_files": [
            {
                "name": LABELS_FILE,
                "description": "names of the classes, one a line",
                "type": _VALUE_LABELS if kind == "labels" else _AXIS_LABELS,
            }
        ],
    }
    if kind == "probabilities":
        output["stats"] = {"max": [1.0], "min": [0.0]}
    return output


def _label_lines(labels):
    lines = []
    for index, name in enumerate(labels.names):
        # Control characters, line and paragraph separators, and surrogates, which UTF-8 cannot hold.
        broken = ("Cc", "Cs", "Zl", "Zp")
        clean = "".join(" " if unicodedata.category(letter) in broken else letter for letter in name)
        lines.append(" ".join(clean.split()) or str(index))  # readers pass over empty lines
    return "\n".join(lines)


def _find(content):
    """The entry in a model's metadata, or None."""
    if bytes(content[4:8]) != b"TFL3":
        raise ValueError("no TFLite file")
    model = schema.Model.GetRootAs(content, 0)
    for index in range(model.MetadataLength()):
        entry = model.Metadata(index)
        if entry.Name() == _NAME.encode():
            buffer = model.Buffers(entry.Buffer()).DataAsNumpy()
            if bytes(buffer[4:8]) != _IDENTIFIER:
                raise ValueError("metadata of an unknown version")
            return buffer
    return None


def _told(buffer, path):
    model = unpack("ModelMetadata", buffer)
    subgraph = model["subgraph_metadata"][0]
    custom = {entry["name"]: entry["data"] for entry in subgraph.get("custom_metadata", [])}
    options = custom.get(_SEGMENTER) and unpack("ImageSegmenterOptions", custom[_SEGMENTER])
    output = subgraph["output_tensor_metadata"][-1]
    names = [
        file["name"] for file in output.get("associated_files", []) if file["type"] in (_AXIS_LABELS, _VALUE_LABELS)
    ]
    return {
        **{field: model.get(field, "") for field in ("name", "description", "min_parser_version")},
        "input": subgraph["input_tensor_metadata"][0],
        "output": output,
        "activation": dict(enumerate(_ACTIVATIONS))[options["activation"]] if options else None,
        "labels": _archived(path, names[0]).splitlines() if names else None,
    }


def _archived(path, name):
    with zipfile.ZipFile(path) as archive:
        return archive.read(name).decode("utf-8")
