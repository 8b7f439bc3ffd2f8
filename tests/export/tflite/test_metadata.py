"""What a file says of itself; that MediaPipe reads the same is tested in tests/clients."""

import io
import zipfile

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from conftest import MODELS
from networks import filled, lowered, pictures, run

from kseg.errors import InputError
from kseg.export.tflite import write_tflite
from kseg.export.tflite.flatbuffer import parse, write
from kseg.export.tflite.metadata import append_labels, metadata_buffers, read_metadata
from kseg.export.tflite.metadata_tables import pack, unpack
from kseg.labels import LabelSet

ABOUT = {"name": "net", "description": "a network"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A .tflite file without labels."""
    path = tmp_path_factory.mktemp("plain") / "net.tflite"
    write_tflite(lowered(filled(dict(MODELS)["unet"])), path, "float32")
    return path


def _described(plain, folder, labels=None, **about):
    labels, path = labels or LabelSet.numbered(3), folder / "described.tflite"
    network = parse(plain.read_bytes())
    network.metadata |= metadata_buffers(labels, **{**ABOUT, **about})
    write(network, path)
    append_labels(path, labels)
    return path


def _read_buffers(labels, **about):
    (buffer,) = metadata_buffers(labels, **{**ABOUT, **about}).values()
    return unpack("ModelMetadata", buffer)


def test_the_file_says_what_it_is(plain, tmp_path):
    labels = LabelSet(("sky", "street", "trees"), [(0, 0, 0)] * 3)
    told = read_metadata(_described(plain, tmp_path, labels))
    assert (told["name"], told["description"]) == ("net", "a network")
    assert told["labels"] == ["sky", "street", "trees"]
    assert told["activation"] == "SOFTMAX"
    assert told["min_parser_version"] == "1.5.0"
    assert told["input"]["name"] == "image"
    assert told["input"]["process_units"][0]["options"] == {"mean": [0.0], "std": [1.0]}
    assert told["input"]["content"]["content_properties"] == {"color_space": 1}
    assert told["input"]["stats"] == {"max": [255.0], "min": [0.0]}
    assert told["output"]["name"] == "logits"
    assert told["output"]["dimension_names"] == ["batch", "height", "width", "class"]
    assert told["output"]["associated_files"][0]["type"] == 2  # TENSOR_AXIS_LABELS


def test_it_computes_as_before(plain, tmp_path):
    (image,) = pictures(1)
    path = _described(plain, tmp_path)
    np.testing.assert_array_equal(run(path, image), run(plain, image))
    assert Interpreter(str(path)).get_signature_list() == Interpreter(str(plain)).get_signature_list()


def test_described_twice_keeps_the_last(plain, tmp_path):
    once = _described(plain, tmp_path)
    again = _described(once, tmp_path, LabelSet(("a", "b", "c"), [(0, 0, 0)] * 3), name="other")
    assert (read_metadata(again)["name"], read_metadata(again)["labels"]) == ("other", ["a", "b", "c"])
    with zipfile.ZipFile(again) as archive:
        assert archive.namelist() == ["labels.txt"]


@pytest.mark.parametrize(
    ("output", "classes", "activation"),
    [
        ("logits", 3, "SOFTMAX"),
        ("logits", 1, "NONE"),
        ("probabilities", 3, "NONE"),
        ("labels", 3, None),
    ],
)
def test_activation(plain, tmp_path, output, classes, activation):
    told = read_metadata(_described(plain, tmp_path, LabelSet.numbered(classes), output=output))
    assert told["activation"] == activation
    assert len(told["labels"]) == classes
    assert told["output"]["name"] == output


def test_only_float_pixels_have_a_normalisation():
    for dtype, there in (("float32", True), ("uint8", False)):
        (subgraph,) = _read_buffers(LabelSet.numbered(2), input_dtype=dtype)["subgraph_metadata"]
        assert ("process_units" in subgraph["input_tensor_metadata"][0]) == there


@pytest.mark.parametrize("about", [{"output": "labels"}, {"resizable": True}])
def test_what_mediapipe_gets_wrong_is_no_image_to_it(about):
    (subgraph,) = _read_buffers(LabelSet.numbered(2), **about)["subgraph_metadata"]
    assert subgraph["input_tensor_metadata"][0]["content"]["content_properties_type"] == 1  # FeatureProperties


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("Straße", "Straße"),
        ("空", "空"),
        ("👩‍🚀", "👩‍🚀"),
        ("two\nlines", "two lines"),
        ("\r\ncar\t\u2028 and\x85bus\x00 ", "car and bus"),
        ("half \ud83d", "half"),
        (" \n", "1"),
    ],
)
def test_each_class_is_one_line(plain, tmp_path, name, line):
    labels = LabelSet(("first", name, "last"), [(0, 0, 0)] * 3)
    path = _described(plain, tmp_path, labels, name=name)
    assert read_metadata(path)["labels"] == ["first", line, "last"]
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").decode().split("\n") == ["first", line, "last"]


def test_the_archive_is_as_readers_expect_it(plain):
    """Uncompressed, its positions counted from the start of the file, and the same for the same labels."""
    files = []
    for _ in range(2):
        file = io.BytesIO(plain.read_bytes())
        append_labels(file, LabelSet.numbered(3))
        files.append(file.getvalue())
    assert files[0] == files[1]
    assert files[0].startswith(plain.read_bytes())
    with zipfile.ZipFile(io.BytesIO(files[0])) as archive:
        (entry,) = archive.infolist()
        assert entry.compress_type == zipfile.ZIP_STORED
        assert entry.header_offset == plain.stat().st_size
        directory = archive.start_dir
    end = files[0].rindex(b"PK\5\6")
    assert int.from_bytes(files[0][end + 16 : end + 20], "little") == directory  # as written, not as mended


def test_custom_data_is_aligned():
    (buffer,) = metadata_buffers(LabelSet.numbered(2), **ABOUT).values()
    assert buffer[4:8] == b"M001"
    assert (buffer.index(b"V001") - 4) % 16 == 0  # the schema's force_align


def test_a_file_without_metadata(plain):
    assert read_metadata(plain) is None


@pytest.mark.parametrize("content", [b"", b"no model", b"\0" * 400, b"\x1c\0\0\0TFL3" + b"\xff" * 400])
def test_no_tflite_file(tmp_path, content):
    (tmp_path / "net.tflite").write_bytes(content)
    with pytest.raises(InputError, match="damaged or no TFLite file"):
        read_metadata(tmp_path / "net.tflite")


def test_no_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_metadata(tmp_path / "net.tflite")


def test_damage_is_told_in_one_line(plain, tmp_path):
    content = _described(plain, tmp_path).read_bytes()
    start = content.index(b"M001") - 4
    rng = np.random.default_rng(0)
    told = 0
    for _ in range(200):
        broken = bytearray(content)
        where = rng.integers(start, len(content), 8)
        for position in where:
            broken[position] = rng.integers(256)
        (tmp_path / "broken.tflite").write_bytes(broken)
        try:
            read_metadata(tmp_path / "broken.tflite")
        except InputError as error:
            assert "\n" not in str(error)
            told += 1
    assert told > 0
    (tmp_path / "cut.tflite").write_bytes(content[:-30])  # the archive's end is missing
    with pytest.raises(InputError):
        read_metadata(tmp_path / "cut.tflite")


def test_pack_and_unpack_agree():
    fields = {
        "name": "x",
        "process_units": [{"options_type": 1, "options": {"mean": [1.5, 2.5], "std": [3.0]}}],
        "dimension_names": ["a", "", "ü"],
        "content": {
            "content_properties_type": 2,
            "content_properties": {"color_space": 1},
            "range": {"min": -1, "max": 7},
        },
        "associated_files": [],
    }
    assert unpack("TensorMetadata", pack("TensorMetadata", fields, b"TEST")) == fields
