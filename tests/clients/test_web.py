"""Our files in a browser: does headless Chromium say what kseg.runtime says?

`make test-clients` runs these. The engines live in .web-clients, where npm installs them with the first test; without
npm or Chromium the tests are skipped, or fail if KSEG_CLIENTS=required.
"""

import base64
import functools
import http.server
import json
import shutil
import struct
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from clients import NUCLEI, export_nuclei, made, unavailable
from conftest import ROOT
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from kseg import runtime
from kseg.data.files import read_image
from kseg.labels import LabelSet
from kseg.runtime.page import ENGINES, write_page

pytestmark = pytest.mark.slow

HERE = Path(__file__).resolve().parent
PACKAGES = ROOT / ".web-clients"
EXPORTED = ROOT / "exported"
SMALL = "nuclei_unet_float16.onnx"
IMAGES = sorted((NUCLEI / "images" / "val").iterdir())


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def packages():
    """The folder of npm packages: the engines, and what drives Chromium."""
    npm = shutil.which("npm")
    if npm is None:
        unavailable("no npm here (apt-get install npm)")
    wanted = json.dumps({"private": True, "dependencies": {"playwright-core": "1.64.1", **_engines()}})

    def make():
        PACKAGES.mkdir(exist_ok=True)
        (PACKAGES / "package.json").write_text(wanted)
        done = subprocess.run([npm, "install"], cwd=PACKAGES, capture_output=True, text=True, check=False)
        return done if done.returncode else None

    made(PACKAGES, wanted.encode(), make)
    return PACKAGES / "node_modules"


def _engines():
    return {name: version for engine in ENGINES.values() for name, version in engine.items()}


@pytest.fixture
def browse(packages, tmp_path):
    """Function (model, images, ...) -> what browse.mjs tells of the model's page, with each image chosen in it."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        unavailable("no Chromium here (apt-get install chromium)")
    # Node looks for packages beside the script.
    shutil.copy(HERE / "browse.mjs", packages.parent)

    def run(model, images=(), width=1024, change=None, **options):
        folder = tmp_path / "page"
        write_page(model, folder, **options)
        (folder / "node_modules").symlink_to(packages)
        if change:
            change(folder)
        handler = functools.partial(_Quiet, directory=folder)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{server.server_port}"
            command = ["node", "browse.mjs", chromium, url, str(width), tmp_path / "shot.png", *images]
            done = subprocess.run(command, cwd=packages.parent, capture_output=True, text=True, check=False)
            server.shutdown()
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def _agreement(told, predictor, images):
    """The share of pixels, of all images together, that the page gives the class that the predictor gives."""
    same, seen = [], set()
    for path, encoded in zip(images, told["classes"], strict=True):
        image = read_image(path)
        found = np.frombuffer(base64.b64decode(encoded), np.int32).reshape(image.shape[:2])
        same.append((found == predictor.indices(image[None])[0]).ravel())
        seen |= set(np.unique(found).tolist())
    assert len(seen) > 1, "one class alone: that would prove nothing"
    return np.concatenate(same).mean()


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("nuclei_unet_float16.tflite", 0.9999),
        ("nuclei_unet_mobilenet_float16.tflite", 0.9999),
        ("nuclei_unet_float16.onnx", 0.9999),
        ("nuclei_unet_int8.onnx", 0.9999),
    ],
)
def test_the_exported_files(browse, name, least):
    told = browse(EXPORTED / name, IMAGES)
    agreement = _agreement(told, runtime.load(EXPORTED / name), IMAGES)
    times = [float(chosen["status"].split(" in ")[1].removesuffix(" ms")) for chosen in told["chosen"]]
    print(f"{name}: {agreement:.6f} of the pixels, {np.median(times):.0f} ms")
    assert agreement >= least


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("labels_int8.tflite", {"precision": "int8", "output": "labels"}),
        ("labels_dynamic.tflite", {"precision": "dynamic", "output": "labels", "input_dtype": "uint8"}),
        ("probabilities.tflite", {"output": "probabilities"}),
        ("probabilities_int8.tflite", {"precision": "int8", "output": "probabilities"}),
        ("labels.onnx", {"output": "labels", "input_dtype": "uint8"}),
        ("any_size.onnx", {"resizable": True}),
    ],
)
def test_every_kind_of_file(browse, nuclei_network, tmp_path, name, options):
    path = export_nuclei(tmp_path / name, nuclei_network, LabelSet.load(NUCLEI / "labels.json"), **options)
    agreement = _agreement(browse(path, IMAGES), runtime.load(path), IMAGES)
    print(f"{name}: {agreement:.6f} of the pixels")
    # With weights alone in 8 bits, the ranges of values are found while running, in another order of sums.
    assert agreement >= (0.999 if options.get("precision") == "dynamic" else 0.9999)


def test_pictures_are_read_as_kseg_reads_them(browse, tmp_path):
    """One that a camera turned, one with transparent parts, one with a gamma: other pixels would get other classes."""
    photo = read_image(IMAGES[0])
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(photo).save(tmp_path / "turned.jpg", quality=95, subsampling=0, exif=turned)
    alpha = np.zeros(photo.shape[:2], np.uint8)
    alpha[: len(alpha) // 2] = 255
    Image.fromarray(np.dstack([photo, alpha])).save(tmp_path / "clear.png")
    gamma = PngInfo()
    gamma.add(b"gAMA", struct.pack(">I", 100_000))
    Image.fromarray(photo).save(tmp_path / "gamma.png", pnginfo=gamma)
    images = [tmp_path / name for name in ("turned.jpg", "clear.png", "gamma.png")]
    assert _agreement(browse(EXPORTED / SMALL, images), runtime.load(EXPORTED / SMALL), images) > 0.999


def test_any_name_of_a_file(browse, tmp_path):
    odd = tmp_path / "ünet #1 50%41?.onnx"
    for ending in ("", ".json"):
        shutil.copy(EXPORTED / f"{SMALL}{ending}", f"{odd}{ending}")
    assert _agreement(browse(odd, IMAGES[:1]), runtime.load(odd), IMAGES[:1]) == 1


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page(browse, tmp_path, width):
    told = browse(EXPORTED / SMALL, IMAGES[:1], width, title="Cell nuclei", example=IMAGES[1])
    height, across = read_image(IMAGES[1]).shape[:2]
    assert told["status"].startswith(f"{across} × {height} pixels in ")
    assert told["wider"] == 0
    assert "background" in told["chosen"][0]["legend"]
    assert "nucleus" in told["chosen"][0]["legend"]
    with Image.open(tmp_path / "shot.png") as shot:
        pixels = np.asarray(shot.convert("RGB")).astype(int)
    assert pixels.shape[1] == width
    assert (np.abs(pixels - (252, 252, 250)).max(-1) > 16).mean() > 0.1, "no picture on the page"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: None, ""),
        (lambda folder: (folder / SMALL).write_bytes(b"cut short"), "is not the file that its card describes"),
        (lambda folder: (folder / f"{SMALL}.json").unlink(), "404"),
        (lambda folder: (folder / "node_modules").unlink(), 'run "npm install"'),
    ],
    ids=["none", "cut short", "no card", "no engine"],
)
def test_mistakes_are_told(browse, change, message):
    status = browse(EXPORTED / SMALL, change=change)["status"]
    assert message in status
    assert bool(message) == bool(status)
