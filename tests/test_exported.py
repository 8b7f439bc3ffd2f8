"""The files that a user can take from exported/: whole, small, and as good as their cards and the README say."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tooling import tool

from kseg import data, runtime
from kseg.data.files import read_image, read_mask
from kseg.evaluation import evaluate, load_predictor
from kseg.labels import LabelSet

ROOT = Path(__file__).resolve().parent.parent
EXPORTED = ROOT / "exported"
NUCLEI = ROOT / "kseg/data/bundled/nuclei"
LABELS = LabelSet.load(NUCLEI / "labels.json")
# fmt: off
STREETS = LabelSet(
    ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"),
    (
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
        (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ),
    ignore=11,
)
# fmt: on


@dataclass(frozen=True)
class Network:
    """What the cards of a network's files must say."""

    size_px: tuple
    labels: LabelSet
    verified_on: tuple
    kinds: tuple


ON_PHONES = ("int8.tflite", "float16.tflite")
NETWORKS = {
    "nuclei_unet": Network((256, 256), LABELS, ("nuclei val", 20), (*ON_PHONES, "int8.onnx", "float16.onnx")),
    "nuclei_unet_mobilenet": Network((256, 256), LABELS, ("nuclei val", 20), ON_PHONES),
    "streets_deeplab_mobilenet": Network((360, 480), STREETS, ("camvid val", 101), ("int8.tflite",)),
}
FILES = [(name, f"{name}_{kind}") for name, network in NETWORKS.items() for kind in network.kinds]
NUCLEI_FILES = [file for name, file in FILES if name.startswith("nuclei")]


@pytest.fixture(scope="module")
def pictures():
    """Three images kept back from training, and their masks: fluorescence twice, stained tissue once."""
    paths = sorted((NUCLEI / "images/val").iterdir())
    return [(read_image(path), read_mask(NUCLEI / "masks/val" / path.name, LABELS)[0]) for path in paths[:3]]


@pytest.fixture(scope="module")
def masks(pictures):
    """{file: one predicted mask for each picture}."""
    found = {}
    for file in NUCLEI_FILES:
        predictor = runtime.load(EXPORTED / file)
        found[file] = [predictor.indices(image[None])[0] for image, _ in pictures]
    return found


def test_all_of_them_are_here_and_small():
    files = [path for path in EXPORTED.iterdir() if path.suffix in (".tflite", ".onnx")]
    assert sorted(path.name for path in files) == sorted(file for _, file in FILES)
    assert sum(path.stat().st_size for path in files) < 12e6


@pytest.mark.parametrize(("name", "file"), FILES)
def test_the_card_fits_the_file(name, file):
    card, network = runtime.Card.load(EXPORTED / file), NETWORKS[name]  # compares the sha256
    assert (card.file, card.size_px, card.labels) == (file, network.size_px, network.labels)
    assert card.precision == re.search("int8|float16", file)[0]
    assert card.input["dtype"] == ("uint8" if file.endswith("int8.tflite") else "float32")
    assert (card.parity["data"], card.parity["images"]) == network.verified_on
    assert card.parity["mean_iou_file"] > card.parity["mean_iou_keras"] - 0.01
    text = runtime.Card.path_for(EXPORTED / file).read_text()
    assert not re.search(r'"/|[A-Za-z]:\\|/(home|root|tmp|work|Users)/', text), "a path of the machine that made it"


@pytest.mark.parametrize(("name", "file"), FILES)
def test_the_readme_says_what_the_card_says(name, file):
    parity, size = runtime.Card.load(EXPORTED / file).parity, (EXPORTED / file).stat().st_size
    cells = [f"[{file}]({file})", f"{size / 1e6:.2f}", *(f"{parity[f'mean_iou_{of}']:.4f}" for of in ("keras", "file"))]
    assert f"| {' | '.join(cells)} |" in (EXPORTED / "README.md").read_text()


@pytest.mark.parametrize("file", NUCLEI_FILES)
def test_finds_nuclei(file, masks, pictures):
    counts = np.zeros((2, 2))
    for found, (_, truth) in zip(masks[file], pictures, strict=True):
        assert found.shape == truth.shape
        counts += np.bincount(2 * truth.ravel() + found.ravel(), minlength=4).reshape(2, 2)
    iou = np.diag(counts) / (counts.sum(0) + counts.sum(1) - np.diag(counts))
    assert iou.mean() > 0.85  # they reach 0.89 to 0.91


def test_finds_what_is_in_a_street(camvid_dir):
    source = data.open_source(camvid_dir, "val[40:44]")
    predictor = load_predictor(EXPORTED / "streets_deeplab_mobilenet_int8.tflite")
    assert evaluate(predictor, data.evaluation_batches(source), source.labels).mean_iou > 0.5


@pytest.mark.parametrize(
    ("network", "format"), [("nuclei_unet", "tflite"), ("nuclei_unet", "onnx"), ("nuclei_unet_mobilenet", "tflite")]
)
def test_int8_and_float16_agree(network, format, masks):
    pairs = zip(masks[f"{network}_int8.{format}"], masks[f"{network}_float16.{format}"], strict=True)
    assert np.mean([np.mean(one == other) for one, other in pairs]) >= 0.98


def test_a_newcomer_can_try_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = next((NUCLEI / "images/val").iterdir())
    assert tool("predict")([str(EXPORTED / FILES[0][1]), str(image)]) == 0
    written = {path.name for path in (tmp_path / "runs" / "pictures").iterdir()}
    assert written == {f"{image.stem}.png", f"{image.stem}_overlay.png"}
