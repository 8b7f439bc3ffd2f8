import json
from dataclasses import replace

import pytest

from kseg.errors import InputError
from kseg.labels import LabelSet
from kseg.runtime import Card
from kseg.runtime.card import sha256_of


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(b"content")
    return path


@pytest.fixture
def card(file):
    return Card(
        file=file.name,
        sha256=sha256_of(file),
        network="net",
        labels=LabelSet.numbered(3, ignore=255),
        input={"shape": [1, 32, 48, 3], "dtype": "float32", "range": [0, 255]},
        output={"kind": "logits", "shape": [1, 32, 48, 3]},
        precision="float32",
        versions={"kseg": "0"},
        parity={"images": 2, "mean_iou_keras": None},
    )


def test_round_trip(file, card):
    assert card.save(file) == file.with_name("net.tflite.json")
    assert Card.load(file) == card
    assert card.size_px == (32, 48)


def test_a_later_versions_fields_are_passed_over(file, card):
    where = card.save(file)
    where.write_text(json.dumps({**json.loads(where.read_text()), "novelty": 1}))
    assert Card.load(file) == card


def test_a_card_without_the_later_fields(file, card):
    where = card.save(file)
    content = json.loads(where.read_text())
    where.write_text(json.dumps({name: content[name] for name in list(content)[:8]}))
    assert Card.load(file) == replace(card, parity=None)


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_files_for_any_size_and_files_that_give_labels(file, card, dtype):
    card = replace(
        card,
        input={"shape": [1, None, None, 3], "dtype": dtype, "range": [0, 255]},
        output={"kind": "labels", "shape": [1, None, None]},
        calibration={"data": "photos", "images": 8, "sha256": "0"},
        check={"operators": {}},
    )
    card.save(file)
    assert Card.load(file) == card
    assert card.size_px is None


def test_missing_card(file):
    with pytest.raises(InputError, match=r"net\.tflite: its card net\.tflite\.json is missing.*export"):
        Card.load(file)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00", b"[]", b'{"file": "net.tflite"}', b"null"])
def test_unreadable_card(file, card, content):
    card.save(file).write_bytes(content)
    with pytest.raises(InputError, match=r"net\.tflite\.json: the card .*export the model again"):
        Card.load(file)


@pytest.mark.parametrize(
    "change",
    [
        {"input": {"shape": [1, 32, 48, 4], "dtype": "float32"}},
        {"input": {"shape": "large"}},
        {"input": None},
        {"output": {"kind": "logits", "shape": [1, 32, 48, 5]}},
        {"output": {"kind": "labels", "shape": [1, 32, 48, 3]}},
        {"output": {"kind": "logits", "shape": [1, None, None, 3]}},
        {"output": {"kind": "masks", "shape": [1, 32, 48, 3]}},
        {"input": {"shape": [1, 32, None, 3], "dtype": "float32"}},
        {"input": {"shape": [1, 32, 48, 3], "dtype": "int8"}},
        {"calibration": "photos"},
        {"check": ["operators"]},
        {"external_data": {"file": "x"}},
        {"external_data": {"file": "../x", "sha256": "0"}},
        {"external_data": {"file": 3, "sha256": "0"}},
    ],
)
def test_card_that_contradicts_itself(file, card, change):
    replace(card, **change).save(file)
    with pytest.raises(InputError, match="do not fit together"):
        Card.load(file)


def test_changed_file(file, card):
    card.save(file)
    file.write_bytes(b"conten")
    with pytest.raises(InputError, match="not the file that its card describes"):
        Card.load(file)


def test_missing_external_data(file, card):
    replace(card, external_data={"file": "net.data", "sha256": "0"}).save(file)
    with pytest.raises(InputError, match=r"net\.data: cannot be read"):
        Card.load(file)


def test_nan_is_no_number_for_a_card(file, card):
    with pytest.raises(ValueError, match="JSON"):
        replace(card, parity={"max_abs_error": float("nan")}).save(file)
