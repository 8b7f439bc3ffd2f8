"""Fixtures, and the one list of all networks that the property tests run over."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tooling import TINY, tool

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("KSEG_TEST_DATA", ROOT.parent / "shared"))


def _shared(*parts):
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path.name} is not on this machine (set KSEG_TEST_DATA)")
    return path


@pytest.fixture
def camvid_dir():
    return _shared("data", "camvid")


@pytest.fixture
def clothes_dir():
    return _shared("data", "clothes")


@pytest.fixture
def faces_dir():
    return _shared("data", "faces")


@pytest.fixture
def weights_dir():
    return _shared("weights")


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of 2 MB, where mounting one is allowed."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """A folder of small images that the tests draw: bright discs on a dark ground; 6 to train on, 3 kept back."""
    from kseg.labels import LabelSet

    folder = tmp_path_factory.mktemp("discs")
    generator = np.random.default_rng(7)
    rows, columns = np.mgrid[:40, :48]
    for split, count in (("train", 6), ("val", 3)):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for index in range(count):
            y, x, radius = generator.integers((8, 8, 5), (32, 40, 12))
            mask = ((rows - y) ** 2 + (columns - x) ** 2 < radius**2).astype(np.uint8)
            image = generator.integers(0, 60, (40, 48, 3)) + 150 * mask[..., None]
            Image.fromarray(image.astype(np.uint8)).save(folder / "images" / split / f"{index}.png")
            Image.fromarray(mask).save(folder / "masks" / split / f"{index}.png")
    LabelSet(("ground", "disc"), ((0, 0, 0), (255, 200, 0))).save(folder / "labels.json")
    return folder


@pytest.fixture(scope="session")
def nuclei_network(tmp_path_factory):
    """A network that tells nuclei from background, for slow tests; a minute of training."""
    from kseg.training import load_model

    run = tmp_path_factory.mktemp("runs") / "nuclei"
    settings = {"filters": 8, "depth": 3, "crop_px": "128,128", "batch": 4, "repeats": 4, "epochs": 4}
    settings |= {"precision": "float32", "learning_rate": 0.002, "validate_every": 4, "batch_normalization": "true"}
    chosen = [f"--set={name}={value}" for name, value in settings.items()]
    assert tool("train")(["nuclei_unet", "--data", "nuclei", "--out", str(run), *chosen]) == 0
    return load_model(run / "best.keras")[0]


def _small(builder, **options):
    def build(classes, **more):
        from kseg import applications  # here, so that the tests of kseg.runtime run without Keras

        return getattr(applications, builder)(classes=classes, **{**options, **more})

    return build


# The one list of all networks, each in a small form: (id, function of `classes` and other arguments of the builder).
MODELS = (
    ("fcn32s", _small("FCN32s", fc_units=16, alpha=0.125)),
    ("fcn16s", _small("FCN16s", fc_units=16, alpha=0.125)),
    ("fcn8s", _small("FCN8s", fc_units=16, alpha=0.125)),
    ("fcn8s_caffe", _small("FCN8s", fc_units=16, alpha=0.125, alignment="caffe")),
    ("unet", _small("UNet", filters=4, depth=2)),
    ("unet_bilinear", _small("UNet", filters=4, depth=2, upsampling="bilinear", batch_normalization=True, dropout=0.2)),
    ("unet_vgg16", _small("UNet", filters=2, backbone="vgg16", alpha=0.125, batch_normalization=True)),
    ("unet_mobilenet_v2", _small("UNet", filters=2, backbone="mobilenet_v2", alpha=0.1)),
    ("deeplab_vgg16", _small("DeepLabV3Plus", filters=4, alpha=0.125)),
    ("deeplab_mobilenet_v2", _small("DeepLabV3Plus", filters=32, backbone="mobilenet_v2", alpha=0.1, rates=(2,))),
)


def over_networks(*usual):
    """Parametrizes `build` over MODELS; with names given, the other networks are for the slow tests."""
    return pytest.mark.parametrize(
        "build",
        [
            pytest.param(build, id=name, marks=() if not usual or name in usual else pytest.mark.slow)
            for name, build in MODELS
        ],
    )


@pytest.fixture
def fails(capsys):
    """Run a tool that must fail on its user's mistake: one line, exit code 2; returns that line."""

    def run(name, *arguments, code=2):
        assert tool(name)([str(a) for a in arguments]) == code
        lines = capsys.readouterr().err.strip().splitlines()
        assert not any("Traceback" in line for line in lines)
        assert lines[-1].startswith(("error: ", "failed: "))
        return lines[-1]

    return run


@pytest.fixture(scope="session")
def tiny_run(tiny_data, tmp_path_factory):
    """Folder of a run that tools/train.py made."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    assert tool("train")(["nuclei_unet", "--data", str(tiny_data), "--out", str(run), *TINY]) == 0
    return run
