"""The web page: what is written, what is refused, and its arithmetic in Node.js against NumPy's."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from files import write
from PIL import Image

from kseg import runtime
from kseg.errors import InputError
from kseg.runtime.page import ENGINES, write_page
from kseg.runtime.resize import resize, resize_nearest, resized_argmax

MODULE = Path(runtime.__file__).parent / "web" / "kseg.mjs"
NODE = shutil.which("node")


def _in_node(code, tmp_path):
    """What `code` prints as JSON; it may use all that kseg.mjs gives."""
    script = tmp_path / "script.mjs"
    script.write_text(f"import * as kseg from {json.dumps(MODULE.as_uri())};\n{code}")
    done = subprocess.run([NODE, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(NODE is None, reason="no Node.js here")
@pytest.mark.parametrize("size_px", [(31, 57), (9, 40), (24, 32), (1, 1), (7, 80)])
@pytest.mark.parametrize("source_px", [(24, 32), (1, 1), (33, 20)])
def test_resizing_equals_numpy_to_the_bit(tmp_path, source_px, size_px):
    generator = np.random.default_rng(0)
    values = generator.normal(0, 40, (*source_px, 3)).astype(np.float32)
    classes = generator.integers(0, 300, source_px)
    found = _in_node(
        f"""
        const [source, target] = [{list(source_px)}, {list(size_px)}];
        const values = Float32Array.from({values.ravel().tolist()});
        const classes = Int32Array.from({classes.ravel().tolist()});
        console.log(JSON.stringify([
          [...kseg.resize(values, source, 3, target)],
          [...kseg.resizedArgmax(values, source, 3, target)],
          [...kseg.resizeNearest(classes, source, target)],
        ]));
        """,
        tmp_path,
    )
    np.testing.assert_array_equal(np.float32(found[0]).reshape(*size_px, 3), resize(values, size_px))
    np.testing.assert_array_equal(np.reshape(found[1], size_px), resized_argmax(values, size_px))
    np.testing.assert_array_equal(np.reshape(found[2], size_px), resize_nearest(classes, size_px))


@pytest.mark.skipif(NODE is None, reason="no Node.js here")
def test_equal_scores_and_scores_that_are_none(tmp_path):
    found = _in_node(
        """
        const told = (scores) => {
          try { return [...kseg.resizedArgmax(scores, [1, 2], 2, [1, 2])]; } catch (error) { return error.message; }
        };
        console.log(JSON.stringify([told([5, 5, 0, -0]), told([0, 1, NaN, 1]), told([0, 1, 1, Infinity])]));
        """,
        tmp_path,
    )
    assert found[0] == [0, 0]
    assert found[1] == found[2] == "The network's scores are not finite numbers"


@pytest.mark.skipif(NODE is None, reason="no Node.js here")
def test_overlay(tmp_path):
    found = _in_node(
        """
        globalThis.ImageData = class {
          constructor(data, width, height) { Object.assign(this, { data, width, height }); }
        };
        const image = new ImageData(Uint8ClampedArray.from([100, 50, 0, 255, 100, 50, 0, 255]), 2, 1);
        console.log(JSON.stringify([...kseg.overlay(image, [0, 1], [[0, 0, 0], [200, 100, 50]], 0.5).data]));
        """,
        tmp_path,
    )
    assert found == [100, 50, 0, 255, 150, 75, 25, 255]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Suffix -> an exported file."""
    folder = tmp_path_factory.mktemp("models")
    for suffix in ENGINES:
        write(folder / f"net{suffix}")
    return {suffix: folder / f"net{suffix}" for suffix in ENGINES}


@pytest.mark.parametrize("suffix", list(ENGINES))
def test_a_page_has_all_that_it_needs(models, tmp_path, suffix):
    picture = tmp_path / "Photo.JPG"
    Image.new("RGB", (4, 3)).save(picture)
    folder = tmp_path / "new" / "page"
    write_page(models[suffix], folder, title="Streets & “signs”", example=picture)
    page = json.loads((folder / "page.json").read_text(encoding="utf-8"))
    assert page == {"title": "Streets & “signs”", "model": f"net{suffix}", "example": "example.jpg"}
    assert (folder / page["example"]).read_bytes() == picture.read_bytes()
    assert json.loads((folder / "package.json").read_text())["dependencies"] == ENGINES[suffix]
    assert (folder / "kseg.mjs").read_bytes() == MODULE.read_bytes()
    runtime.load(folder / page["model"])  # file and card belong together
    html = (folder / "index.html").read_text(encoding="utf-8")
    for package in ENGINES[suffix]:
        assert f'": "./node_modules/{package}/' in html


def test_a_page_replaces_a_page_and_nothing_else(models, tmp_path):
    folder = tmp_path / "page"
    write_page(models[".onnx"], folder)
    (folder / "notes.txt").write_text("mine")
    write_page(models[".tflite"], folder, title="again")
    assert json.loads((folder / "page.json").read_text())["title"] == "again"
    assert (folder / "notes.txt").read_text() == "mine"
    assert not list(folder.glob("net.onnx*"))


@pytest.mark.parametrize("name", ["index.html", "page.json"])
def test_what_others_made_is_left_alone(models, tmp_path, name):
    (tmp_path / name).write_text('{"name": "somebody\'s"}')
    with pytest.raises(InputError, match=f"{name} would be overwritten"):
        write_page(models[".onnx"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("net.tflite", {"resizable": True}, r"--size, or as \.onnx"),
        ("net.keras", None, r"must be an exported file, ending in \.tflite or \.onnx"),
        ("none.onnx", None, "no such file"),
    ],
)
def test_what_no_browser_runs_is_refused(tmp_path, name, options, message):
    path = tmp_path / name
    if options is not None:
        write(path, **options)
    with pytest.raises(InputError, match=message):
        write_page(path, tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_eight_bit_scores_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"gives int8 scores.*--output labels"):
        write_page(ROOT / "exported" / "nuclei_unet_int8.tflite", tmp_path / "page")


@pytest.mark.parametrize(
    ("name", "message"),
    [("scan.tif", "browsers show"), ("none.png", "no such file"), ("text.png", "not a picture that can be read")],
)
def test_an_example_that_cannot_be_shown_is_refused(models, tmp_path, name, message):
    if name != "none.png":
        (tmp_path / name).write_text("no picture")
    with pytest.raises(InputError, match=message):
        write_page(models[".onnx"], tmp_path / "page", example=tmp_path / name)
    assert not (tmp_path / "page").exists()
