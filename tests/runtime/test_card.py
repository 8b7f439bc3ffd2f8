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
        {"external_data": {"file": "x"}},
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
