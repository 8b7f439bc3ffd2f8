"""Our files in MediaPipe Tasks, which knows nothing of kseg: does it say what kseg.runtime says?

`make test-clients` runs these. MediaPipe lives in .venv-clients, which the first test makes; where that is not possible
they are skipped, or fail if KSEG_CLIENTS=required.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from clients import NUCLEI, export_nuclei, made, nuclei, unavailable
from conftest import ROOT, over_networks
from segment import CANNOT_RUN, REFUSED

from kseg import runtime
from kseg.export.tflite.metadata import read_metadata
from kseg.labels import LabelSet

pytestmark = pytest.mark.slow

HERE = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv-clients"
# Least share of pixels with the class that kseg.runtime gives.
AGREEMENT = {"float32": 0.999, "float16": 0.999, "dynamic": 0.99, "int8": 0.99, "int16x8": 0.99}


@pytest.fixture(scope="module")
def python():
    """The Python of an environment with what requirements.txt says."""
    requirements = HERE / "requirements.txt"
    found = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def make():
        pip = [found, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements]
        for command in ([sys.executable, "-m", "venv", "--clear", ENVIRONMENT], pip):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                return done

    made(ENVIRONMENT, requirements.read_bytes(), make)
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
            unavailable(f"MediaPipe cannot run here: {last} (Debian and Ubuntu: apt-get install libegl1 libgles2)")
        if done.returncode == REFUSED:
            return last
        assert done.returncode == 0, done.stderr
        with np.load(tmp_path / "result.npz") as result:
            return dict(result)

    return run


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
def test_nuclei(nuclei_network, mediapipe, tmp_path, precision, input_dtype, output):
    labels = LabelSet.load(NUCLEI / "labels.json")
    name = f"nuclei_{precision}_{input_dtype}_{output}.tflite"
    path = export_nuclei(
        tmp_path / name, nuclei_network, labels, precision=precision, input_dtype=input_dtype, output=output
    )
    images = nuclei("val", 20)
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
    path = export_nuclei(tmp_path / f"net_{precision}.tflite", network, labels, precision=precision)
    result = mediapipe(path, nuclei("val", 3))
    assert result["labels"].tolist() == ["ground", "Gebäude und Straße", "空", "Δx", "last"]
    result["labels"] = np.array(names)
    _check(path, result, nuclei("val", 3), precision)


@pytest.mark.parametrize("options", [{"output": "labels"}, {"resizable": True}], ids=["labels", "resizable"])
@pytest.mark.parametrize("input_dtype", ["float32", "uint8"])
def test_what_mediapipe_would_get_wrong_is_refused(nuclei_network, mediapipe, tmp_path, options, input_dtype):
    labels = LabelSet.load(NUCLEI / "labels.json")
    path = export_nuclei(tmp_path / "net.tflite", nuclei_network, labels, input_dtype=input_dtype, **options)
    assert read_metadata(path)["labels"] == list(labels.names)
    assert "Expected ImageProperties" in mediapipe(path, nuclei("val", 1))


def test_its_own_reader_reads_what_we_wrote(nuclei_network, mediapipe, tmp_path):
    labels = LabelSet.load(NUCLEI / "labels.json")
    path = export_nuclei(tmp_path / "net.tflite", nuclei_network, labels)
    told = json.loads(str(mediapipe(path, nuclei("val", 1))["told"]))
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
