"""Our files in MediaPipe Tasks, which knows nothing of kseg: does it say what kseg.runtime says?

`make test-clients` runs these. MediaPipe lives in .venv-clients, which the first test makes; where that is not possible
they are skipped, or fail if KSEG_CLIENTS=required.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, over_networks
from PIL import Image
from segment import CANNOT_RUN, REFUSED
from tooling import tool

from kseg import runtime
from kseg.export import export
from kseg.export.tflite.metadata import read_metadata
from kseg.labels import LabelSet

pytestmark = pytest.mark.slow

HERE = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv-clients"
NUCLEI = ROOT / "kseg" / "data" / "bundled" / "nuclei"
SIZE = (192, 256)  # height and width differ: a swap must not pass
# Least share of pixels with the class that kseg.runtime gives.
AGREEMENT = {"float32": 0.999, "float16": 0.999, "dynamic": 0.99, "int8": 0.99, "int16x8": 0.99}


def _unavailable(reason):
    (pytest.fail if os.environ.get("KSEG_CLIENTS") == "required" else pytest.skip)(reason)


@pytest.fixture(scope="module")
def python():
    """The Python of an environment with what requirements.txt says."""
    requirements = HERE / "requirements.txt"
    done, wanted = ENVIRONMENT / ".installed", hashlib.sha256(requirements.read_bytes()).hexdigest()
    found = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (done.exists() and done.read_text() == wanted):
        pip = [found, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements]
        for command in ([sys.executable, "-m", "venv", "--clear", ENVIRONMENT], pip):
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            if made.returncode:
                lines = made.stderr.strip().splitlines() or ["no reason given"]
                _unavailable(f"MediaPipe's environment cannot be made: {lines[-1]}")
        done.write_text(wanted)
    return found


@pytest.fixture
def mediapipe(python, tmp_path):
    """Function (file, images uint8 [N, H, W, 3]) -> what segment.py writes, as a dict; or its refusal, a str."""

    def run(path, images):
        np.save(tmp_path / "images.npy", images)
        arguments = [path, tmp_path / "images.npy", tmp_path / "result.npz"]
        done = subprocess.run([python, HERE / "segment.py", *arguments], capture_output=True, text=True, check=False)
        last = (done.stderr.strip().splitlines() or [""])[-1]
        if done.returncode == CANNOT_RUN:
            _unavailable(f"MediaPipe cannot run here: {last} (Debian and Ubuntu: apt-get install libegl1 libgles2)")
        if done.returncode == REFUSED:
            return last
        assert done.returncode == 0, done.stderr
        with np.load(tmp_path / "result.npz") as result:
            return dict(result)

    return run


def _nuclei(split, count):
    """The first images of a split at the files' size, so that neither side has to resize: uint8 [N, H, W, 3]."""
    paths = sorted((NUCLEI / "images" / split).iterdir())[:count]
    return np.stack([np.asarray(Image.open(path).convert("RGB").resize(SIZE[::-1])) for path in paths])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network that tells nuclei from background; a minute of training."""
    from kseg.training import load_model

    run = tmp_path_factory.mktemp("runs") / "nuclei"
    settings = {"filters": 8, "depth": 3, "crop_px": "128,128", "batch": 4, "repeats": 4, "epochs": 4}
    settings |= {"precision": "float32", "learning_rate": 0.003, "validate_every": 4}
    chosen = [f"--set={name}={value}" for name, value in settings.items()]
    assert tool("train")(["nuclei_unet", "--data", "nuclei", "--out", str(run), *chosen]) == 0
    return load_model(run / "best.keras")[0]


def _export(path, network, labels, **options):
    export(
        network,
        labels,
        path,
        format="tflite",
        size_px=None if options.get("resizable") else SIZE,
        verification=[(image, None) for image in _nuclei("val", 3)],
        calibration=list(_nuclei("train", 8)),
        **options,
    )
    return path


def _check(path, result, images, precision):
    predictor = runtime.load(path)
    agreement = (result["masks"] == predictor.indices(images)).mean()
    print(f"{path.name}: {agreement:.6f} of the pixels")
    assert agreement >= AGREEMENT[precision]
    scores = predictor(images)
    if predictor.card.output["kind"] == "logits":
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
    assert np.abs(result["confidences"] - scores).mean() < 1 - AGREEMENT[precision]
    assert result["labels"].tolist() == list(predictor.labels.names)


@pytest.mark.parametrize("output", ["logits", "probabilities"])
@pytest.mark.parametrize("input_dtype", ["float32", "uint8"])
@pytest.mark.parametrize("precision", list(AGREEMENT))
def test_nuclei(trained, mediapipe, tmp_path, precision, input_dtype, output):
    labels = LabelSet.load(NUCLEI / "labels.json")
    name = f"nuclei_{precision}_{input_dtype}_{output}.tflite"
    path = _export(tmp_path / name, trained, labels, precision=precision, input_dtype=input_dtype, output=output)
    images = _nuclei("val", 20)
    result = mediapipe(path, images)
    _check(path, result, images, precision)
    assert 0.02 < result["masks"].mean() < 0.5  # it does tell nuclei from background


@pytest.mark.parametrize("precision", ["float32", "int8"])
@over_networks()
def test_every_network(mediapipe, tmp_path, build, precision):
    import keras

    keras.utils.set_random_seed(3)
    names = ("ground", "Gebäude\nund Straße", "空", "Δx", "last")
    network = build(len(names))
    for layer in network.layers:  # an FCN begins with scores of 0
        if layer.name.startswith("score"):
            layer.set_weights([np.random.default_rng(3).normal(0, 0.1, w.shape) for w in layer.get_weights()])
    labels = LabelSet(names, LabelSet.numbered(len(names)).colours)
    path = _export(tmp_path / f"net_{precision}.tflite", network, labels, precision=precision)
    result = mediapipe(path, _nuclei("val", 3))
    assert result["labels"].tolist() == ["ground", "Gebäude und Straße", "空", "Δx", "last"]
    result["labels"] = np.array(names)
    _check(path, result, _nuclei("val", 3), precision)


@pytest.mark.parametrize("options", [{"output": "labels"}, {"resizable": True}], ids=["labels", "resizable"])
@pytest.mark.parametrize("input_dtype", ["float32", "uint8"])
def test_what_mediapipe_would_get_wrong_is_refused(trained, mediapipe, tmp_path, options, input_dtype):
    labels = LabelSet.load(NUCLEI / "labels.json")
    path = _export(tmp_path / "net.tflite", trained, labels, input_dtype=input_dtype, **options)
    assert read_metadata(path)["labels"] == list(labels.names)
    assert "Expected ImageProperties" in mediapipe(path, _nuclei("val", 1))


def test_its_own_reader_reads_what_we_wrote(trained, mediapipe, tmp_path):
    labels = LabelSet.load(NUCLEI / "labels.json")
    path = _export(tmp_path / "net.tflite", trained, labels)
    told = json.loads(str(mediapipe(path, _nuclei("val", 1))["told"]))
    ours = read_metadata(path)
    assert (told["name"], told["minParserVersion"]) == (ours["name"], "1.5.0")
    (subgraph,) = told["subgraphMetadata"]
    (image,), (output,) = subgraph["inputTensorMetadata"], subgraph["outputTensorMetadata"]
    assert image["name"] == "image"
    assert image["dimensionNames"] == ["batch", "height", "width", "channel"]
    assert image["content"] == {"contentPropertiesType": 2, "contentProperties": {"colorSpace": 1}}
    assert image["processUnits"] == [{"optionsType": 1, "options": {"mean": [0.0], "std": [1.0]}}]
    assert image["stats"] == {"max": [255.0], "min": [0.0]}
    assert output["name"] == "logits"
    assert output["content"]["range"] == {"min": 1, "max": 2}
    (file,) = output["associatedFiles"]
    assert (file["name"], file["type"], file["description"]) == ("labels.txt", 2, "names of the classes, one a line")
    (custom,) = subgraph["customMetadata"]
    assert custom["name"] == "SEGMENTER_METADATA"
