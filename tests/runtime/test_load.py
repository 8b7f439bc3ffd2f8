"""Loading and running exported files. The files are made by kseg.export from a small network."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

import kseg.runtime.onnx as runtime_onnx
from kseg import runtime
from kseg.errors import InputError
from kseg.export import export
from kseg.labels import LabelSet
from kseg.runtime.card import sha256_of

FORMATS = ("tflite", "onnx")
SIZE = (32, 48)


def _network():
    keras.utils.set_random_seed(0)
    image = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1)(image)
    x = keras.layers.Conv2D(8, 3, 2, padding="same", activation="relu")(x)
    return keras.Model(image, keras.layers.Conv2DTranspose(5, 4, 2, padding="same")(x), name="small")


def _photo(size_px=SIZE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size_px, 3), np.uint8)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(network, folder with small.tflite, small.onnx and their cards)."""
    folder, network = tmp_path_factory.mktemp("exported"), _network()
    for kind in FORMATS:
        export(
            network,
            LabelSet.numbered(5),
            folder / f"small.{kind}",
            format=kind,
            size_px=SIZE,
            verification=[(_photo(), None)],
        )
    return network, folder


@pytest.fixture
def copied(made, tmp_path):
    for path in made[1].iterdir():
        shutil.copy(path, tmp_path)
    return tmp_path


def _recard(path):
    """Make the card agree with a file that a test has changed, so that the interpreter gets to see it."""
    card_path = runtime.Card.path_for(path)
    content = card_path.read_text()
    old = content.split('"sha256": "')[1].split('"')[0]
    card_path.write_text(content.replace(old, sha256_of(path)))


@pytest.mark.parametrize("kind", FORMATS)
def test_predicts_like_keras(made, kind):
    network, folder = made
    predictor = runtime.load(folder / f"small.{kind}")
    assert predictor.labels == LabelSet.numbered(5)
    assert predictor.size_px == SIZE
    images = np.stack([_photo(seed=seed) for seed in range(3)])
    scores = predictor(images)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, network.predict_on_batch(images.astype(np.float32)), atol=1e-4)
    np.testing.assert_array_equal(predictor(images.astype(np.float64)), scores)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size_px", [(1, 1), (67, 99), (16, 200)])
def test_any_size(made, kind, size_px):
    predictor = runtime.load(made[1] / f"small.{kind}", threads=1)
    images = _photo((2, *size_px))
    scores = predictor(images)
    assert scores.shape == (2, *size_px, 5)
    np.testing.assert_array_equal(predictor.indices(images), scores.argmax(-1))


@pytest.mark.parametrize(
    "images", [np.zeros((32, 48, 3)), np.zeros((1, 32, 48, 1)), np.zeros((1, 0, 4, 3)), np.zeros((1, 4, 4, 3), int)]
)
def test_images_of_another_form(made, images):
    with pytest.raises(ValueError, match="`images` must be"):
        runtime.load(made[1] / "small.tflite")(images)


def test_images_that_were_scaled_are_warned_of(made):
    predictor = runtime.load(made[1] / "small.tflite")
    with pytest.warns(UserWarning, match=r"the images are in 0\.\.1, or nearly black") as caught:
        predictor(_photo()[None] / 255.0)
    assert caught[0].filename == __file__
    predictor(np.zeros((1, *SIZE, 3)))
    predictor(np.ones((1, *SIZE, 3), np.uint8))


def test_at_size_wants_its_size(made):
    with pytest.raises(ValueError, match=r"shape \[32, 48, 3\]"):
        runtime.load(made[1] / "small.tflite").at_size(np.zeros((31, 48, 3)))


def test_not_an_exported_file(tmp_path):
    with pytest.raises(InputError, match="must end in"):
        runtime.load(tmp_path / "net.keras")
    with pytest.raises(InputError, match="no such file"):
        runtime.load(tmp_path / "net.tflite")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.9])
def test_truncated(copied, kind, keep):
    path = copied / f"small.{kind}"
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    with pytest.raises(InputError, match="not the file that its card describes"):
        runtime.load(path)
    _recard(path)
    with pytest.raises(InputError, match=f"small.{kind}: "):
        runtime.load(path)


@pytest.mark.parametrize("kind", FORMATS)
def test_foreign_content(copied, kind):
    path = copied / f"small.{kind}"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    _recard(path)
    with pytest.raises(InputError, match=f"not an? {'TFLite' if kind == 'tflite' else 'ONNX'} file"):
        runtime.load(path)


@pytest.mark.parametrize("kind", FORMATS)
def test_another_kind_of_model(copied, kind):
    path = copied / f"small.{kind}"
    card = runtime.Card.load(path)
    other = {"shape": [1, 64, 64, 3], "dtype": "float32", "range": [0, 255]}
    replace(card, input=other, output={"kind": "logits", "shape": [1, 64, 64, 5]}).save(path)
    with pytest.raises(InputError, match=r"another kind of model: the card says input \[1, 64, 64, 3\]"):
        runtime.load(path)
    replace(card, input={**card.input, "dtype": "uint8"}).save(path)
    with pytest.raises(InputError, match=r"another kind of model: the card says input uint8, the file has"):
        runtime.load(path)


def test_large_files_say_the_same(made, monkeypatch):
    """Their weights are not laid out anew, which takes more than twice the memory."""
    network, folder = made
    monkeypatch.setattr(runtime_onnx, "_LARGE_BYTES", 1)
    scores = runtime.load(folder / "small.onnx")(_photo()[None])
    np.testing.assert_allclose(scores, network.predict_on_batch(_photo()[None].astype(np.float32)), atol=1e-4)


def test_a_card_with_other_names(copied):
    path = copied / "small.onnx"
    card = runtime.Card.load(path)
    replace(card, labels=replace(card.labels, names=card.labels.names[::-1])).save(path)
    with pytest.raises(InputError, match=r"the card calls its classes 4, 3, .*; the file itself 0, 1"):
        runtime.load(path)


@pytest.mark.parametrize(("kind", "module"), [("tflite", "ai_edge_litert.interpreter"), ("onnx", "onnxruntime")])
def test_missing_interpreter(made, kind, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"kseg\[{kind}\]"):
        runtime.load(made[1] / f"small.{kind}")


WITHOUT_TENSORFLOW = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "keras", "tf2onnx", "onnx", "jax", "rich"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
import numpy as np
import kseg

predictor = kseg.runtime.load(sys.argv[1])
images = np.load(sys.argv[2])
np.save(sys.argv[3], predictor(images))
assert not {"tensorflow", "keras"} & set(sys.modules)
print(predictor.labels.names)
"""


@pytest.mark.parametrize("kind", FORMATS)
def test_needs_neither_tensorflow_nor_keras(made, kind, tmp_path):
    path, images = made[1] / f"small.{kind}", _photo((2, 50, 40))
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, "-W", "error", "-c", WITHOUT_TENSORFLOW]
    arguments = [path, tmp_path / "images.npy", tmp_path / "scores.npy"]
    root = Path(runtime.__file__).parents[2]
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(LabelSet.numbered(5).names)
    assert done.stderr == ""  # not even the interpreter's chatter
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), runtime.load(path)(images), atol=1e-5)
