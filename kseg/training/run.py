"""A training run: recipe + data -> a folder with the best and the last network, history and pictures.

`model.fit` does the work, in one call: the data set is one continuous stream in which epoch, order and augmentation
follow from (seed, epoch, position) alone. So a run that goes on from `last.keras` sees what it would have seen.
"""

import csv
import sys
from dataclasses import dataclass
from pathlib import Path

import keras

from kseg import data
from kseg.errors import InputError
from kseg.files import replacing
from kseg.metrics import ConfusionMatrix
from kseg.training.build import build_loss, build_network, build_optimizer
from kseg.training.callbacks import LearningCurves, RunFiles, StepLines
from kseg.training.checkpoint import read_state, restore, restore_seed_states
from kseg.training.distribution import Placement
from kseg.training.precision import choose_precision
from kseg.training.recipes import change, recipe_from_json, recipe_to_json
from kseg.training.validation import SharedValidation

RECIPE, BEST, LAST, HISTORY = "recipe.json", "best.keras", "last.keras", "history.csv"
_ALONE = Placement()


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


def train(recipe, train_source, val_source, folder, resume=False, log=print, placement=_ALONE):
    """Train the recipe's network and return the Run.

    Args:
        recipe: Recipe; to resume, as `resume_recipe` read it.
        train_source, val_source: sources of kseg.data with the same classes.
        folder: of the run, made if need be. It then holds `recipe.json`, `best.keras` (highest validation mean IoU),
            `last.keras` (with the optimizer), `history.csv` and TensorBoard logs under `logs/`.
        resume: go on after the last finished epoch: optimizer, schedule, loss scale, dropout and data seeds are
            as they were, so that the end is that of a run without the break. A run that was killed in its first
            epoch starts again.
        log: called with each line for the user.
        placement: Placement: the devices, and perhaps the processes, that share the work. Only one process, the
            chief, logs and writes; in all, the Run holds the same numbers.
    Raises:
        InputError: the recipe does not fit, the run is finished, a state is damaged, the disk is full, or another
            process was lost.
    """
    with placement.scope():
        return _train(recipe, train_source, val_source, Path(folder), resume, log, placement)


def _train(recipe, train_source, val_source, folder, resume, log, placement):
    log = log if placement.is_chief else _silent
    if not resume and placement.is_chief:
        check_new_folder(folder)
    labels = train_source.labels
    if len(val_source.labels) != len(labels):
        raise InputError(f"training images have {len(labels)} classes, validation images {len(val_source.labels)}")
    state = read_state(folder / LAST) if resume and (folder / LAST).exists() else None
    precision = state["precision"] if state else choose_precision(recipe.precision)
    log(f"Precision: {precision} (Keras on {keras.backend.backend()}; change it with --set precision=...)")
    devices = placement.check(recipe.batch, f"{recipe} {precision} {train_source.names} {val_source.names}")
    if placement.kind:
        log(f"Devices: {devices}, {recipe.batch // devices} crops of a step for each")
    steps = recipe.repeats * data.steps_per_epoch(train_source, recipe.batch)
    model = _compiled(recipe, labels, steps, precision)
    log(f"{recipe.model}: {model.count_params() / 1e6:.2f} M parameters, {recipe.epochs} epochs of {steps} steps")
    if not resume and placement.is_chief:  # only now: a recipe that no network can be built from leaves nothing behind
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / RECIPE) as temporary:
            temporary.write_text(recipe_to_json(recipe))
    first = _take_up(model, folder, state, recipe.epochs) if state else 0
    if first:
        log(f"Resuming after epoch {first} of {recipe.epochs}")
    files = RunFiles(folder, labels, precision, state, writes=placement.is_chief)
    validation = SharedValidation(val_source, _validation_epochs(recipe), placement.shard) if placement.kind else None
    callbacks = [validation, files] if validation else [files]
    if placement.is_chief:
        callbacks.append(
            LearningCurves(folder / "logs", val_source, predict=validation and validation.predict_on_batch)
        )
    if not sys.stdout.isatty():
        callbacks.append(StepLines(log))
    with data.naming_bad_files(train_source), data.naming_bad_files(val_source):
        model.fit(
            training_stream(recipe, train_source, first, placement.shard),
            steps_per_epoch=steps,
            initial_epoch=first,
            epochs=recipe.epochs,
            validation_data=None if validation else data.evaluation_batches(val_source),
            validation_freq=_validation_epochs(recipe),
            callbacks=callbacks,
            shuffle=False,  # the stream is shuffled already
            verbose=0 if not placement.is_chief else 1 if sys.stdout.isatty() else 2,
        )
    return Run(folder, tuple(files.history), files.best)


def _take_up(model, folder, state, epochs):
    """Bring a compiled model to where the run was left; return the number of finished epochs."""
    done = state["epoch"] + 1
    if done >= epochs:
        raise InputError(f"{folder}: all {epochs} epochs are done; nothing to resume")
    restore(model, folder / LAST, state["iterations"])
    restore_seed_states(model, state["seeds"])
    return done


def training_stream(recipe, source, first_epoch=0, shard=(0, 1)):
    """The recipe's crops from `first_epoch` to the last, as one tf.data.Dataset of (images, labels).

    `shard`: see `kseg.data.training_batches`.
    """
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
        shard=shard,
    )


def _silent(line):
    """The log of a process that is not the chief."""


def _compiled(recipe, labels, steps, precision):
    keras.utils.set_random_seed(recipe.seed)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        model = build_network(recipe, len(labels))
        model.compile(
            optimizer=build_optimizer(recipe, steps * recipe.epochs),
            loss=build_loss(recipe, labels),
            metrics=[ConfusionMatrix(len(labels), ignore=labels.ignore)],
            jit_compile=keras.backend.backend() == "jax",
        )
    finally:
        keras.config.set_dtype_policy(before)
    return model


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
