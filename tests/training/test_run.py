"""Training runs with what a recipe can ask for, each interrupted and taken up again."""

import contextlib
import io
import json
import re
import subprocess
import sys
from copy import copy
from dataclasses import replace

import numpy as np
import pytest

from kseg import data
from kseg.errors import InputError
from kseg.evaluation import evaluate, load_predictor
from kseg.labels import LabelSet
from kseg.training import callbacks, train
from kseg.training.build import build_trainer, freeze
from kseg.training.callbacks import ended_early
from kseg.training.checkpoint import load_model, read_state
from kseg.training.distribution import place
from kseg.training.plan import Planned, begun, is_trained, plan
from kseg.training.recipe import Recipe, recipe_to_json
from kseg.training.recipes import find_recipe

TINY = {"filters": 4, "depth": 2, "crop_px": (32, 32), "batch": 2, "epochs": 3, "precision": "float32"}
CRAFT = {
    "optimizing": {
        "frozen": ("encode", "upsample_2"),
        "thaw_after": 1,
        "class_weights": "median_frequency",
        "weighted_share": 0.6,
        "average": 0.9,
        "accumulate": 2,
        "clip_norm": 1.0,
    },
    "supervising": {"auxiliary": ("decode_2_relu2",), "batch_normalization": True, "dropout": 0.2},
}


@pytest.fixture
def sources(tiny_data):
    return data.folder(tiny_data, "train"), data.folder(tiny_data, "val")


def _train(sources, folder, resume=False, log=lambda line: None, **settings):
    return train(Recipe(**{"model": "UNet", **TINY, **settings}), *sources, folder, resume=resume, log=log)


def _interrupt_after(epochs, monkeypatch):
    """End the run as a kill would, once `epochs` are on disk."""
    write = callbacks.RunFiles.on_epoch_end

    def on_epoch_end(self, epoch, logs=None):
        write(self, epoch, logs)
        if epoch + 1 == epochs:
            raise KeyboardInterrupt

    monkeypatch.setattr(callbacks.RunFiles, "on_epoch_end", on_epoch_end)


@pytest.mark.slow
@pytest.mark.parametrize(("craft", "epochs"), [("optimizing", 1), ("optimizing", 2), ("supervising", 2)])
def test_an_interrupted_run_ends_like_one_left_alone(craft, epochs, sources, tmp_path, monkeypatch):
    settings, whole, broken = CRAFT[craft], tmp_path / "whole", tmp_path / "broken"
    expected = _train(sources, whole, **settings)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        _interrupt_after(epochs, patch)
        _train(sources, broken, **settings)
    again = _train(sources, broken, resume=True, **settings)
    assert [e["loss"] for e in again.history] == pytest.approx([e["loss"] for e in expected.history], abs=1e-5)
    # last.keras of a supervised network has several outputs, which load_model does not take.
    for name in ("best.keras", "last.keras") if craft == "optimizing" else ("best.keras",):
        both = (load_model(run / name)[0].weights for run in (whole, broken))
        for ours, theirs in zip(*both, strict=True):
            np.testing.assert_allclose(np.asarray(theirs), np.asarray(ours), rtol=0, atol=1e-5, err_msg=ours.path)


def test_a_run_that_another_process_trains_is_left_alone(sources, tmp_path, monkeypatch):
    run, lines = tmp_path / "run", []
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        _interrupt_after(1, patch)
        _train(sources, run, log=lines.append)
    assert lines[-1] == f"Stopped. {run} goes on from its last finished epoch (--resume; resume=True)"
    before = {path.name: path.read_bytes() for path in run.glob("*.*")}
    holder = "import sys; from kseg.files import held\nwith held(sys.argv[1], ''):\n print(flush=True)\n input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", holder, run / "recipe.json"], **pipes) as other:
        other.stdout.readline()
        with pytest.raises(InputError, match=r"recipe.json: another process is training this run"):
            _train(sources, run, resume=True)
        assert {path.name: path.read_bytes() for path in run.glob("*.*")} == before
        other.kill()
    assert _train(sources, run, resume=True).history  # a kill lets go of it


def test_one_class_is_told_before_anything_is_written(tiny_data, tmp_path):
    source = data.folder(tiny_data, "train")
    source.labels = LabelSet(("cell",), ((255, 255, 0),), ignore=255)
    with pytest.raises(InputError, match=r"has one class, cell; a network tells classes apart: name the rest, too"):
        _train((source, source), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_two_new_runs_in_one_folder(sources, tmp_path):
    """The second finds the first's recipe where its own network took seconds to build."""

    def log(line):
        if line.startswith("UNet: "):
            (tmp_path / "run").mkdir()
            (tmp_path / "run" / "recipe.json").write_text("the first's")

    with pytest.raises(InputError, match="run: not empty; go on with its run by --resume"):
        train(Recipe(model="UNet", **TINY), *sources, tmp_path / "run", log=log)
    assert (tmp_path / "run" / "recipe.json").read_text() == "the first's"


def test_frozen_layers_stay_until_they_are_thawed(sources, tmp_path, monkeypatch):
    after_epochs = []
    write = callbacks.RunFiles.on_epoch_end

    def on_epoch_end(self, epoch, logs=None):
        write(self, epoch, logs)
        after_epochs.append(load_model(tmp_path / "run/last.keras")[0].weights)

    monkeypatch.setattr(callbacks.RunFiles, "on_epoch_end", on_epoch_end)
    settings = {"frozen": ("encode",), "thaw_after": 1, "epochs": 2, "optimizer": "sgd", "learning_rate": 0.01}
    _train(sources, tmp_path / "run", **settings)
    start = build_trainer(Recipe(**{"model": "UNet", **TINY}), sources[0].labels, "float32")
    for weight, *later in zip(start.weights, *after_epochs, strict=True):
        changed = [bool(np.abs(np.asarray(one) - np.asarray(weight)).max() > 1e-9) for one in later]
        assert changed == [not weight.path.startswith("encode"), True], weight.path


def test_class_weights_end(sources, tmp_path, capsys):
    """With steps too small to change anything, each epoch's loss on the same crops says how it was weighted."""
    settings = {"scales": (1, 1), "flips": "none", "crop_px": (48, 64), "brightness": 0, "contrast": 0, "saturation": 0}
    settings |= {"learning_rate": 1e-30, "epochs": 3, "class_weights": "inverse_log"}
    losses = {}
    for after in (1, 2, 3):
        run = _train(sources, tmp_path / f"after_{after}", weighted_share=after / 3, **settings)
        losses[after] = [entry["loss"] for entry in run.history]
        assert re.findall("Epoch (.*)", capsys.readouterr().out) == ["1/3", "2/3", "3/3"]
    alike = _train(sources, tmp_path / "alike", **{**settings, "class_weights": "none"}).history
    for after, found in losses.items():
        expected = [losses[3][i] if i < after else alike[i]["loss"] for i in range(3)]
        assert found == pytest.approx(expected, rel=1e-5)
    assert losses[3] != pytest.approx([entry["loss"] for entry in alike], rel=1e-2)


def test_the_average_is_what_is_validated_and_kept(sources, tmp_path):
    run = _train(sources, tmp_path / "run", average=0.95, learning_rate=0.01, schedule="constant", epochs=2)
    best = evaluate(load_predictor(run.folder / "best.keras"), data.evaluation_batches(sources[1]), sources[1].labels)
    assert best.mean_iou == pytest.approx(run.best["val_mean_iou"], abs=1e-6)
    last = load_model(run.folder / "last.keras")[0]
    average = load_model(run.folder / "best.keras")[0]
    assert any((np.asarray(a) != np.asarray(b)).any() for a, b in zip(last.weights, average.weights, strict=True))


def test_batches_are_not_accumulated_on_several_devices(sources, tmp_path):
    recipe = Recipe(**{"model": "UNet", **TINY, "accumulate": 2})
    with pytest.raises(InputError, match="`accumulate`: on several devices Keras does that on JAX only"):
        train(recipe, *sources, tmp_path / "run", placement=place("mirrored", environment={}))
    assert not (tmp_path / "run").exists()


def test_a_run_ends_early_and_says_so_when_resumed(sources, tmp_path):
    settings = {"learning_rate": 1e-30, "patience": 2, "epochs": 9}
    run = _train(sources, tmp_path / "run", **settings)
    assert len(run.history) == 3  # the first is the best; two more bring nothing
    assert is_trained(Planned(Recipe(**{"model": "UNet", **TINY, **settings}), tmp_path / "run", resume=True), *sources)
    with pytest.raises(InputError, match="ended after epoch 3, when 2 validations had brought nothing better"):
        _train(sources, tmp_path / "run", resume=True, **settings)


@pytest.mark.parametrize(
    ("values", "patience", "ended"),
    [
        ([0.5, 0.4], 1, True),
        ([0.5, 0.4], 2, False),
        ([0.5, 0.4, 0.5], 2, True),
        ([0.5, 0.4, 0.6], 2, False),
        ([0.5, float("nan"), float("nan")], 2, True),
        ([0.5, 0.4, 0.3], None, False),
        ([], 1, False),
    ],
)
def test_when_patience_is_over(values, patience, ended):
    history = [{"epoch": 1, "loss": 1.0}, *({"val_mean_iou": value} for value in values)]
    assert ended_early(history, patience) == ended


ABOUT = {
    "command": "python tools/train.py x",
    "recipe": "nuclei_unet",
    "data": "discs",
    "splits": ["train[:4]", "val"],
}
ONE_EPOCH = Recipe(model="UNet", **TINY | {"epochs": 1})


@pytest.fixture(scope="module")
def one_epoch(tiny_data, tmp_path_factory):
    """(folder of a run that is done, what its training printed)."""
    folder, printed = tmp_path_factory.mktemp("one_epoch") / "run", io.StringIO()
    train_source = data.folder(tiny_data, "train").take(range(4))
    with contextlib.redirect_stdout(printed):
        train(ONE_EPOCH, train_source, data.folder(tiny_data, "val"), folder, log=lambda line: None, about=ABOUT)
    return folder, printed.getvalue()


def test_a_run_says_what_it_was(one_epoch):
    folder, _ = one_epoch
    told = json.loads((folder / "run.json").read_text())
    assert {name: told[name] for name in ABOUT} == ABOUT
    assert told["images"] == [4, 3]
    assert told["precision"] == "float32"
    assert "core" in told["machine"]
    assert told["parameters"] == load_model(folder / "best.keras")[0].count_params()
    assert told["seconds"] == pytest.approx(read_state(folder / "last.keras")["history"][0]["seconds"], abs=0.1)


def test_the_progress_shows_few_numbers(one_epoch):
    _, printed = one_epoch
    line = next(line for line in printed.splitlines() if "val_mean_iou" in line)
    assert "- loss:" in line
    assert "iou_disc" not in line


def test_a_run_goes_on_with_its_own_samples_only(sources, one_epoch):
    whole, (folder, _) = sources[0], one_epoch
    runs = plan(ONE_EPOCH, folder, resume=True)
    assert begun(runs, "nuclei_unet")["splits"] == ["train[:4]", "val"]
    with pytest.raises(InputError, match="is a run of the recipe nuclei_unet. Received: membranes_unet"):
        begun(runs, "membranes_unet")
    assert is_trained(runs[0], whole.take(range(4)), sources[1])
    for others in (sources, (whole.take((1, 0, 2, 3)), sources[1]), (whole.take(range(4)), whole)):
        with pytest.raises(InputError, match=r"begun with other samples \(discs, train\[:4\], val, \[4, 3\] images\)"):
            is_trained(runs[0], *others)
        with pytest.raises(InputError, match="begun with other samples"):
            train(ONE_EPOCH, *others, folder, resume=True, log=lambda line: None)


def test_a_border_background_that_is_no_class_leaves_nothing_behind(sources, tmp_path):
    with pytest.raises(InputError, match="`border_background` must be one of 2 classes, counted from 0. Received: 5"):
        _train(sources, tmp_path / "run", border_weight=10.0, border_background=5)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("module", "extra", "settings"),
    [
        ("tensorflow", "cpu", {}),
        ("albumentations", "data", {"augmentation": "albumentations"}),
        ("cv2", "data", {"border_weight": 10.0, "border_background": 0}),
    ],
)
def test_what_is_not_installed_is_missed_at_once(module, extra, settings, sources, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"{module} is not installed.*kseg\[{extra}\]"):
        _train(sources, tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frozen": ("encode", "decoed")}, "`frozen`: UNet has no layer that begins with 'decoed'"),
        ({"frozen": ("backbone",)}, "UNet has no backbone"),
        ({"backbone_rate": 0.1}, "UNet has no backbone"),
        ({"auxiliary": ("decode_3",)}, "`auxiliary`: UNet has no layer decode_3"),
    ],
)
def test_layers_that_the_network_does_not_have(settings, message, sources, tmp_path):
    with pytest.raises(InputError, match=message):
        _train(sources, tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_a_backbone_of_which_a_network_takes_a_part_can_be_frozen():
    """DeepLabv3+ goes without MobileNetV2's last convolution, by which others of its layers are found."""
    recipe = replace(find_recipe("camvid_deeplab_mobilenet"), backbone_weights=None, frozen=("backbone",))
    model = build_trainer(recipe, LabelSet.numbered(3), "float32")
    names = {layer.name for layer in freeze(model, recipe)}
    assert {"Conv1", "block_12_project"} <= names
    left = {layer.name for layer in model.layers if layer.trainable_weights}
    assert left
    assert not [name for name in left if name.startswith(("Conv1", "bn_Conv1", "block_", "expanded"))]


def test_classes_in_another_order_are_refused(sources, tmp_path):
    train_source, val_source = sources
    turned = copy(val_source)
    labels = val_source.labels
    turned.labels = replace(labels, names=labels.names[::-1])
    with pytest.raises(InputError, match=r"have 2 classes \(ground, disc\), validation images 2 \(disc, ground\)"):
        _train((train_source, turned), tmp_path / "run")


def test_seeds_are_runs_of_their_own(tmp_path):
    recipe = Recipe(**{"model": "UNet", **TINY})
    runs = plan(recipe, tmp_path / "run", seeds=[0, 7])
    assert [(run.recipe.seed, run.folder.name, run.resume) for run in runs] == [
        (0, "seed_0", False),
        (7, "seed_7", False),
    ]
    for run in runs:
        run.folder.mkdir(parents=True)
        (run.folder / "recipe.json").write_text(recipe_to_json(run.recipe))
    (runs[0].folder / "scores.json").write_text("{}")
    with pytest.raises(InputError, match="not empty"):
        plan(recipe, tmp_path / "run", seeds=[0, 7])
    # Seed 0 is done, 7 goes on, and 9 starts with the recipe of the others.
    again = plan(Recipe(model="FCN8s"), tmp_path / "run", seeds=[0, 7, 9], resume=True)
    assert [(run.recipe.model, run.recipe.seed, run.resume) for run in again] == [("UNet", 7, True), ("UNet", 9, False)]
    with pytest.raises(InputError, match="all seeds are done"):
        plan(recipe, tmp_path / "run", seeds=[0], resume=True)
    with pytest.raises(InputError, match="nothing to resume"):
        plan(recipe, tmp_path / "other", seeds=[3], resume=True)
    with pytest.raises(InputError, match="holds runs of several seeds; say which: --seeds 0 7"):
        plan(recipe, tmp_path / "run", resume=True)
    with pytest.raises(InputError, match="leave out --set seed="):
        plan(recipe, tmp_path / "third", seeds=[3, 4], settings=["seed=5"])
    with pytest.raises(InputError, match="seeds must be different"):
        plan(recipe, tmp_path / "third", seeds=[3, 3])
