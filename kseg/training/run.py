"""A training run: recipe + data -> a folder with the best and the last network, history and pictures.

`model.fit` does the work, in one call: the data set is one continuous stream in which epoch, order and augmentation
follow from (seed, epoch, position) alone. So a run that goes on from `last.keras` sees what it would have seen.
"""

import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import keras

from kseg import data
from kseg.errors import InputError
from kseg.files import replacing
from kseg.training.averaging import AveragedWeights
from kseg.training.build import build_loss, build_trainer, compile_trainer, freeze, thaw
from kseg.training.callbacks import ProgressBar, RunFiles, StepLines, ended_early
from kseg.training.checkpoint import read_state, restore, restore_seed_states
from kseg.training.facts import facts
from kseg.training.precision import choose_precision
from kseg.training.recipe import change, recipe_from_json, recipe_to_json
from kseg.training.supervision import prediction_model
from kseg.training.tensorboard import LearningCurves

RECIPE, BEST, LAST, HISTORY, FACTS = "recipe.json", "best.keras", "last.keras", "history.csv", "run.json"


@dataclass(frozen=True)
class Run:
    """What a training run left in its folder.

    Attributes:
        folder: Path.
        history: one dict an epoch: `epoch`, `loss`, the scores on the training crops and, where it was validated,
            `val_...` on the whole validation images.
        best: the history entry that `best.keras` belongs to.
    """

    folder: Path
    history: tuple
    best: dict


def check_new_folder(folder):
    """Refuse a folder that a new run would overwrite.

    Raises:
        InputError: it holds something already.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: not empty; go on with its run by --resume, or choose another --out")


def resume_recipe(folder, settings=()):
    """The recipe that a run was started with, changed by `settings` as far as that leaves it the same run.

    Raises:
        InputError: no run there, or a setting that would make it another run.
    """
    path = Path(folder) / RECIPE
    if not path.is_file():
        raise InputError(f"{folder}: no {RECIPE}; there is no run to resume")
    recipe = recipe_from_json(path.read_text(), path)
    changed = change(recipe, settings)
    if changed != recipe:
        raise InputError(f"{folder}: a resumed run keeps its recipe; leave out --set or start a new run")
    return recipe


def train(recipe, train_source, val_source, folder, resume=False, log=print, about=None):
    """Train the recipe's network and return the Run.

    Args:
        recipe: Recipe; to resume, as `resume_recipe` read it.
        train_source, val_source: sources of kseg.data with the same classes.
        folder: of the run, made if need be. It then holds `recipe.json`, `best.keras` (highest validation mean IoU),
            `last.keras` (with the optimizer), `history.csv`, `run.json` (see `kseg.training.facts`) and TensorBoard
            logs under `logs/`.
        resume: go on after the last finished epoch: optimizer, schedule, loss scale, dropout and data seeds are
            as they were, so that the end is that of a run without the break. A run that was killed in its first
            epoch starts again.
        log: called with each line for the user.
        about: dict for `run.json`: "command", "data", "splits".
    Raises:
        InputError: the recipe does not fit, the run is finished, a state is damaged, or the disk is full.
    """
    folder = Path(folder)
    if not resume:
        check_new_folder(folder)
    labels = train_source.labels
    if len(val_source.labels) != len(labels):
        raise InputError(f"training images have {len(labels)} classes, validation images {len(val_source.labels)}")
    state = read_state(folder / LAST) if resume and (folder / LAST).exists() else None
    first = _finished_epochs(state, recipe, folder) if state else 0
    precision = state["precision"] if state else choose_precision(recipe.precision)
    log(f"Precision: {precision} (Keras on {keras.backend.backend()}; change it with --set precision=...)")
    steps = recipe.repeats * data.steps_per_epoch(train_source, recipe.batch)
    model = build_trainer(recipe, labels, precision)
    # `last.keras` holds the optimizer of the part of the run in which it was written.
    thawed = recipe.thaw_after is not None and first > recipe.thaw_after
    frozen = [] if thawed else freeze(model, recipe)
    loss = build_loss(recipe, labels, _class_weights(recipe, train_source, log))
    compile_trainer(model, recipe, labels, steps, loss)
    about = {**(about or {}), "images": [len(train_source.names), len(val_source.names)]}
    about = facts(precision, prediction_model(model).count_params(), about)
    log(f"{recipe.model}: {about['parameters'] / 1e6:.2f} M parameters, {recipe.epochs} epochs of {steps} steps")
    if not resume:  # only now: a recipe that no network can be built from leaves nothing behind
        folder.mkdir(parents=True, exist_ok=True)
        _write(recipe_to_json(recipe), folder / RECIPE)
    if state:
        restore(model, folder / LAST, state["iterations"])
        restore_seed_states(model, state["seeds"])
        log(f"Resuming after epoch {first} of {recipe.epochs}")
    files = RunFiles(folder, labels, precision, state, recipe.patience)
    for end in _parts(recipe, first):
        if frozen and first == recipe.thaw_after:
            log(f"Thawing {', '.join(recipe.frozen)}")
            thaw(model, frozen, recipe, labels, steps)
        _fit(model, recipe, (train_source, val_source), first, end, steps, files, log)
        first = end
        if ended_early(files.history, recipe.patience):
            break
    seconds = round(sum(entry["seconds"] for entry in files.history), 1)
    _write(json.dumps({**about, "seconds": seconds}, indent=2) + "\n", folder / FACTS)
    return Run(folder, tuple(files.history), files.best)


def _parts(recipe, first):
    """The epochs at which `fit` ends, after `first`: where layers are thawed, and the last."""
    return sorted(end for end in {recipe.thaw_after or 0, recipe.epochs} if first < end <= recipe.epochs)


def _write(text, path):
    with replacing(path) as temporary:
        temporary.write_text(text)


def _fit(model, recipe, sources, first, end, steps, files, log):
    """Train from the number of finished epochs `first` to that of `end`."""
    train_source, val_source = sources
    callbacks = [AveragedWeights(), ProgressBar(), files, LearningCurves(files.folder / "logs", val_source)]
    if not sys.stdout.isatty():
        callbacks.append(StepLines(log))
    with data.naming_bad_files(train_source), data.naming_bad_files(val_source):
        model.fit(
            training_stream(recipe, train_source, first),
            steps_per_epoch=steps,
            initial_epoch=first,
            epochs=end,
            validation_data=data.evaluation_batches(val_source),
            validation_freq=_validation_epochs(recipe),
            callbacks=callbacks,
            shuffle=False,  # the stream is shuffled already
            verbose=1 if sys.stdout.isatty() else 2,
        )


def _finished_epochs(state, recipe, folder):
    done = state["epoch"] + 1
    if done >= recipe.epochs:
        raise InputError(f"{folder}: all {recipe.epochs} epochs are done; nothing to resume")
    if ended_early(state["history"], recipe.patience):
        raise InputError(
            f"{folder}: ended after epoch {done}, when {recipe.patience} validations had brought nothing better; "
            "nothing to resume"
        )
    return done


def training_stream(recipe, source, first_epoch=0):
    """The recipe's crops from `first_epoch` to the last, as one tf.data.Dataset of (images, labels[, weights])."""
    if recipe.cache == "memory":
        source = data.cached(source, "memory")
    return data.training_batches(
        source,
        crop_px=recipe.crop_px,
        batch=recipe.batch,
        seed=recipe.seed,
        first_epoch=first_epoch * recipe.repeats,
        epochs=recipe.epochs * recipe.repeats,
        scales=recipe.scales,
        flips=recipe.flips,
        brightness=recipe.brightness,
        contrast=recipe.contrast,
        saturation=recipe.saturation,
        elastic_px=recipe.elastic_px,
        border_weight=recipe.border_weight,
        border_sigma_px=recipe.border_sigma_px,
        border_background=recipe.border_background,
    )


def _class_weights(recipe, source, log):
    """One number a class, counted in the training masks, or None: the same whenever a run is resumed."""
    if recipe.class_weights == "none":
        return None
    weights = data.class_weights(data.class_frequencies(source), recipe.class_weights)
    named = zip(source.labels.names, weights, strict=True)
    log(f"Class weights ({recipe.class_weights}): " + ", ".join(f"{name} {weight:.3g}" for name, weight in named))
    return weights


def _validation_epochs(recipe):
    """Epochs (counted from 1, as `fit` does) after which to validate: every so often, and the last."""
    return sorted({*range(recipe.validate_every, recipe.epochs + 1, recipe.validate_every), recipe.epochs})


def read_history(folder):
    """The history of a run from its `history.csv`: a list of dicts, one an epoch.

    Raises:
        InputError: there is none.
    """
    path = Path(folder) / HISTORY
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with open(path, newline="") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
