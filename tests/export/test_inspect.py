"""What `inspect` tells of files of every kind; damaged ones give one line."""

import json
import random
import tracemalloc
import zipfile

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from tiny_files import conv, convert, inverse, upward

from kseg.errors import InputError
from kseg.export.inspect import OperatorRow, Port, fully_accelerated, inspect
from kseg.export.tflite.flatbuffer import Network, Operator, write


@pytest.fixture(scope="module")
def float_file():
    return convert(upward)


@pytest.fixture(scope="module")
def int8_file():
    return convert(upward, "int8")


@pytest.fixture(scope="module")
def open_batch_file():
    return convert(upward, shape=(None, 16, 16, 3))


@pytest.fixture(scope="module")
def flex_file():
    return convert(inverse, flex=True)


def test_a_float_file(float_file, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(float_file)
    report = inspect(path)
    assert report.operators == (
        OperatorRow("CONV_2D", 1, 1, ("float32",), ("float32",)),
        OperatorRow("TRANSPOSE_CONV", 1, 1, ("float32",), ("float32",)),
    )
    assert report.inputs == (Port("image", (1, 16, 16, 3), "float32"),)
    assert report.outputs == (Port("output_0", (1, 32, 32, 2), "float32"),)
    assert report.signatures == ("serving_default: image -> output_0",)
    assert report.weights == 3 * 3 * 3 * 8 + 8 + 4 * 4 * 2 * 8
    assert (report.file, report.size_bytes) == (str(path), len(float_file))
    assert report.flex == report.dynamic == ()
    assert report.fully_accelerated is None
    assert {delegate for delegate, found in report.refusals.items() if found} == {"edgetpu"}


def test_bytes_say_the_same_as_their_file(float_file, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(float_file)
    assert inspect(float_file, run=True).to_dict() == inspect(path, run=True).to_dict()


def test_an_int8_file_tells_its_scales(int8_file):
    report = inspect(int8_file)
    rows = {row.name: row for row in report.operators}
    assert rows["CONV_2D"].activations == ("int8",)
    assert rows["CONV_2D"].weights == ("int8", "int32")
    assert rows["QUANTIZE"].activations == ("float32", "int8")
    assert not report.refusals["xnnpack"] + report.refusals["gpu"] + report.refusals["nnapi"]
    # Its pixels come as float: the compiler for the Edge TPU leaves the two conversions to the host.
    assert {found.operator for found in report.refusals["edgetpu"]} == {"QUANTIZE", "DEQUANTIZE"}


def test_an_open_batch_is_told_with_what_it_costs(open_batch_file):
    report = inspect(open_batch_file, run=True)
    assert report.dynamic[0] == Port("image", (None, 16, 16, 3), "float32")
    assert report.outputs[0].shape[0] is None
    reasons = {found.operator: found.reason for found in report.refusals["xnnpack"]}
    assert reasons["TRANSPOSE_CONV"] == "a shape or size computed while running"
    assert report.fully_accelerated is False


def test_a_batch_of_two_counts_as_dynamic():
    report = inspect(convert(conv, shape=(2, 16, 16, 3)))
    assert [port.name for port in report.dynamic] == ["image"]


def test_a_flex_operator_is_named_and_no_delegate_takes_it(flex_file):
    report = inspect(flex_file)
    assert report.flex == ("FlexMatrixInverse",)
    for found in report.refusals.values():
        assert ("FlexMatrixInverse", "a custom operator") in {(one.operator, one.reason) for one in found}


def test_no_delegate_takes_16_bit_activations():
    report = inspect(convert(upward, "int16x8"), run=True)
    for found in report.refusals.values():
        assert {"CONV_2D", "TRANSPOSE_CONV"} <= {one.operator for one in found}
    assert report.fully_accelerated is False


def test_the_card_gets_plain_json(open_batch_file):
    told = inspect(open_batch_file, run=True).to_dict()
    assert json.loads(json.dumps(told)) == told
    assert told["operators"]["TRANSPOSE_CONV"] == 1
    assert told["dynamic"][0] == "image [?, 16, 16, 3]"
    assert told["fully_accelerated"] is False
    assert "TRANSPOSE_CONV: a shape or size computed while running (1)" in told["refusals"]["xnnpack"]


def test_lines_are_short_and_name_every_source(flex_file, int8_file, float_file):
    for content in (flex_file, int8_file, float_file):
        report = inspect(content, run=True)
        text = "\n".join(report.lines())
        assert max(map(len, report.lines())) <= 120
        for refused in report.refusals.values():
            for one in refused:
                assert one.source.startswith("https://")
                assert one.source in text
                assert one.reason in text
        assert "LiteRT's delegate" in text


def test_equal_refusals_are_one_line(float_file):
    refused = [line for line in inspect(float_file).lines() if "works on float32" in line]
    assert len(refused) == 1
    assert refused[0].split()[0] == "2"


def test_litert_is_asked_in_silence(float_file, tmp_path, capfd):
    path = tmp_path / "net.tflite"
    path.write_bytes(float_file)
    assert fully_accelerated(path) is True
    assert fully_accelerated(str(path)) is True
    assert not "".join(capfd.readouterr())


def test_large_weights_stay_where_they_are(tmp_path):
    network = Network([], [], {}, {}, {})
    network.inputs["image"] = network.add_tensor("image", (1, 8, 8, 512), np.float32)
    kernel = network.add_tensor("kernel", (1024, 3, 3, 512), np.float32, np.zeros((1024, 3, 3, 512), np.float32))
    bias = network.add_tensor("bias", (1024,), np.float32, np.zeros(1024, np.float32))
    network.outputs["logits"] = network.add_tensor("logits", (1, 8, 8, 1024), np.float32)
    options = schema.Conv2DOptionsT(strideH=1, strideW=1)
    network.operators.append(Operator("CONV_2D", 1, [0, kernel, bias], [3], options, 1))
    path = tmp_path / "large.tflite"
    write(network, path)
    assert path.stat().st_size > 18e6
    tracemalloc.start()
    report = inspect(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.weights == 1024 * (9 * 512 + 1)
    assert not report.refusals["xnnpack"]
    assert peak < 1e6


def test_an_operator_of_a_later_schema_is_told_by_its_number(float_file):
    model = schema.ModelT.InitFromPackedBuf(float_file, 0)
    model.operatorCodes[0].builtinCode, model.operatorCodes[0].deprecatedBuiltinCode = 999, 127
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    report = inspect(bytes(builder.Output()))
    assert "OPERATOR_999" in {row.name for row in report.operators}
    assert all("OPERATOR_999" in {one.operator for one in found} for found in report.refusals.values())


def _refused(content):
    with pytest.raises(InputError) as caught:
        inspect(content)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 300


def test_a_file_cut_at_any_place_is_refused(float_file, int8_file, flex_file):
    for content in (float_file, int8_file, flex_file):
        for length in range(len(content)):
            _refused(content[:length])


def test_a_file_cut_within_the_archive_of_its_metadata_is_refused(float_file, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(float_file)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.txt", "ground\ncell\n")
    assert inspect(path).to_dict() == inspect(float_file).to_dict()
    for length in range(len(float_file) + 1, path.stat().st_size):
        if length % 4 or length - len(float_file) > 16:
            _refused(path.read_bytes()[:length])


def test_changed_bytes_give_a_report_or_one_line(int8_file, open_batch_file, flex_file):
    generator = random.Random(5)
    refused = 0
    for content in (int8_file, open_batch_file, flex_file):
        for _ in range(250):
            changed = bytearray(content)
            for _ in range(generator.choice((1, 2, 8))):
                changed[generator.randrange(len(content))] = generator.choice((0, 1, 127, 128, 255))
            try:
                report = inspect(bytes(changed))
            except InputError as error:
                assert "\n" not in str(error)
                refused += 1
            else:
                assert all(line.isprintable() for line in report.lines())
                json.dumps(report.to_dict())
    assert 0 < refused < 750


def test_a_file_that_asks_for_endless_work_is_refused(float_file):
    """Every entry of the list of tensors, as long as it can be, points to the same tensor."""
    model = schema.Model.GetRootAs(float_file)
    graph = model.Subgraphs(0)
    changed = bytearray(float_file)
    place = len(changed)
    count = 300_000
    tensor = graph.Tensors(0)._tab.Pos
    field = graph._tab.Pos + graph._tab.Offset(4)
    changed += count.to_bytes(4, "little")
    for index in range(count):  # an offset may not point backwards, so it wraps around
        changed += ((tensor - (place + 4 + 4 * index)) % 2**32).to_bytes(4, "little")
    changed[field : field + 4] = (place - field).to_bytes(4, "little")
    _refused(bytes(changed))


def test_what_is_no_tflite_file_is_refused(tmp_path):
    for content in (b"", b"TFL3", b"PK\x03\x04" * 10, b"\x08\0\0\0TFL3", b"\0" * 64):
        path = tmp_path / "odd.tflite"
        path.write_bytes(content)
        _refused(path)
        _refused(content)
    for path in (tmp_path, tmp_path / "missing.tflite"):
        _refused(path)
        with pytest.raises(InputError, match=path.name):
            fully_accelerated(path)
