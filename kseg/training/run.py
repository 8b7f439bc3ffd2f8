"""A training run: recipe + data -> a folder with the best and the last network, history and pictures.

`model.fit` does the work, in one call: the data set is one continuous stream in which epoch, order and augmentation
follow from (seed, epoch, position) alone. So a run that goes on from `last.keras` sees what it would have seen.
"""

import csv
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import keras

from kseg import data
from kseg.errors import InputError, need
from kseg.files import held, replacing
from kseg.training.averaging import AveragedWeights
from kseg.training.build import build_loss, build_trainer, compile_trainer, freeze, go_on
from kseg.training.callbacks import EndAfter, ProgressBar, RunFiles, StepLines, ended_early
from kseg.training.checkpoint import read_state, restore, restore_seed_states
from kseg.training.distribution import Placement
from kseg.training.facts import facts, samples_digest
from kseg.training.plan import FACTS, HISTORY, LAST, RECIPE, check_new_folder, check_samples, read_facts
from kseg.training.precision import choose_precision
from kseg.training.recipe import Recipe, recipe_to_json
from kseg.training.supervision import prediction_model
from kseg.training.tensorboard import LearningCurves
from kseg.training.validation import SharedValidation

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


def train(recipe, train_source, val_source, folder, resume=False, log=print, about=None, placement=_ALONE):
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
        placement: Placement: the devices, and perhaps the processes, that share the work. Only one process, the
            chief, logs and writes; in all, the Run holds the same numbers.
    Raises:
        InputError: the recipe does not fit, the run is finished or was begun with other samples, another process is
            training it, a state is damaged, the disk is full, or another process was lost.
        ImportError: a library that the recipe needs is not installed. Nothing was written.
    """
    job = _Job(recipe, train_source, val_source, Path(folder), log if placement.is_chief else _silent, placement)
    try:
        with placement.scope():
            return job.run(resume, about or {})
    except KeyboardInterrupt:
        if job.placement.is_chief and (job.folder / LAST).exists():
            job.log(f"Stopped. {job.folder} goes on from its last finished epoch (--resume; resume=True)")
        raise


@dataclass(frozen=True)
class _Job:
    """What stays the same in all parts of a run."""

    recipe: Recipe
    train_source: data.Source
    val_source: data.Source
    folder: Path
    log: Callable
    placement: Placement

    @property
    def steps(self):
        """Batches an epoch."""
        return self.recipe.repeats * data.steps_per_epoch(self.train_source, self.recipe.batch)

    def run(self, resume, about):
        recipe, labels = self.recipe, self.train_source.labels
        _check_installed(recipe, labels)
        if self.placement.kind and recipe.accumulate > 1 and keras.backend.backend() == "tensorflow":
            raise InputError(
                "recipe field `accumulate`: on several devices Keras does that on JAX only (KERAS_BACKEND=jax)"
            )
        if not resume and self.placement.is_chief:
            check_new_folder(self.folder)
        if self.val_source.labels.names != labels.names:
            raise InputError(
                f"training images have {len(labels)} classes ({', '.join(labels.names)}), validation images "
                f"{len(self.val_source.labels)} ({', '.join(self.val_source.labels.names)})"
            )
        if len(labels) < 2:
            raise InputError(
                f"labels.json has one class, {labels.names[0]}; a network tells classes apart: name the rest, too"
            )
        if recipe.border_weight and recipe.border_background >= len(labels):
            raise InputError(
                f"recipe field `border_background` must be one of {len(labels)} classes, counted from 0. "
                f"Received: {recipe.border_background}"
            )
        if resume:
            check_samples(self.folder, self.train_source, self.val_source)
        state = read_state(self.folder / LAST) if resume and (self.folder / LAST).exists() else None
        first = _finished_epochs(state, recipe, self.folder) if state else 0
        precision = state["precision"] if state else choose_precision(recipe.precision)
        self._say_devices(precision)
        model = build_trainer(recipe, labels, precision)
        # `last.keras` holds the optimizer of the part of the run in which it was written.
        thawed = recipe.thaw_after is not None and first > recipe.thaw_after
        frozen = [] if thawed else freeze(model, recipe)
        weights = _class_weights(recipe, self.train_source, self.log) if first < _weighted_epochs(recipe) else None
        compile_trainer(model, recipe, labels, self.steps, build_loss(recipe, labels, weights))
        sources = (self.train_source, self.val_source)
        about = {**about, "images": [len(source.names) for source in sources], "samples": samples_digest(*sources)}
        about = facts(precision, prediction_model(model).count_params(), about)
        millions = about["parameters"] / 1e6
        self.log(f"{recipe.model}: {millions:.2f} M parameters, {recipe.epochs} epochs of {self.steps} steps")
        if not resume:  # only now: a recipe that no network can be built from leaves nothing behind
            if self.placement.is_chief:  # again: another run may have been started into it meanwhile
                check_new_folder(self.folder)
            self._write(RECIPE, recipe_to_json(recipe))
            self._write_facts(about, 0.0)
        elif begun := read_facts(self.folder):  # the command is the one that the run was started with
            about["command"] = begun.get("command")
        if state:
            restore(model, self.folder / LAST, state["iterations"])
            restore_seed_states(model, state["seeds"])
            self.log(f"Resuming after epoch {first} of {recipe.epochs}")
        files = RunFiles(self.folder, labels, precision, state, recipe.patience, writes=self.placement.is_chief)
        with self._alone():
            self._train_parts(model, first, frozen, files)
            self._write_facts(about, sum(entry["seconds"] for entry in files.history))
        return Run(self.folder, tuple(files.history), files.best)

    def _say_devices(self, precision):
        recipe, placement = self.recipe, self.placement
        self.log(f"Precision: {precision} (Keras on {keras.backend.backend()}; change it with --set precision=...)")
        samples = samples_digest(self.train_source, self.val_source)
        devices = placement.check(recipe.batch, f"{recipe} {precision} {samples}")
        if placement.kind:
            self.log(f"Devices: {devices}, {recipe.batch // devices} crops of a step for each")

    def _alone(self):
        """Two processes that train one run would each overwrite what the other has learned."""
        if not self.placement.is_chief:
            return nullcontext()
        return held(self.folder / RECIPE, "another process is training this run; wait for its end, or stop it")

    def _write(self, name, text):
        if self.placement.is_chief:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self.folder / name) as temporary:
                temporary.write_text(text)

    def _write_facts(self, about, seconds):
        self._write(FACTS, json.dumps({**about, "seconds": round(seconds, 1)}, indent=2) + "\n")

    def _train_parts(self, model, first, frozen, files):
        """`fit` from the number of finished epochs `first` on, anew where layers are thawed or class weights end."""
        recipe, labels = self.recipe, self.train_source.labels
        ends = {recipe.thaw_after or 0, _weighted_epochs(recipe), recipe.epochs}
        for end in sorted(end for end in ends if first < end <= recipe.epochs):
            changes = {}
            if frozen and first == recipe.thaw_after:
                self.log(f"Thawing {', '.join(recipe.frozen)}")
                changes["thawed"] = frozen
            if first and first == _weighted_epochs(recipe):
                self.log("From here on, all classes count alike")
                changes["loss"] = build_loss(recipe, labels)
            if changes:
                go_on(model, recipe, labels, self.steps, **changes)
            self._fit(model, first, end, files)
            first = end
            if ended_early(files.history, recipe.patience):
                break

    def _fit(self, model, first, end, files):
        epochs, chief = _validation_epochs(self.recipe), self.placement.is_chief
        shared = SharedValidation(self.val_source, epochs, self.placement.shard) if self.placement.kind else None
        callbacks = [shared] if shared else [AveragedWeights()]
        callbacks += [ProgressBar(), files, EndAfter(end)]
        if chief:
            callbacks.append(LearningCurves(self.folder / "logs", self.val_source, shared=shared))
        if not sys.stdout.isatty():
            callbacks.append(StepLines(self.log))
        with data.naming_bad_files(self.train_source), data.naming_bad_files(self.val_source):
            model.fit(
                training_stream(self.recipe, self.train_source, first, self.placement.shard),
                steps_per_epoch=self.steps,
                initial_epoch=first,
                epochs=self.recipe.epochs,
                validation_data=None if shared else data.evaluation_batches(self.val_source),
                validation_freq=epochs,
                callbacks=callbacks,
                shuffle=False,  # the stream is shuffled already
                verbose=0 if not chief else 1 if sys.stdout.isatty() else 2,
            )


def _check_installed(recipe, labels):
    """Raise ImportError, before anything is written, for what this recipe would import on the way."""
    need("tensorflow", "cpu")  # tf.data feeds the other backends, too
    _augmentation(recipe, labels)
    if recipe.border_weight:
        need("cv2", "data")


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


def training_stream(recipe, source, first_epoch=0, shard=(0, 1)):
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
        **_augmentation(recipe, source.labels),
        elastic_px=recipe.elastic_px,
        border_weight=recipe.border_weight,
        border_sigma_px=recipe.border_sigma_px,
        border_background=recipe.border_background,
        shard=shard,
    )


def _augmentation(recipe, labels):
    """The arguments of `data.training_batches` for what the recipe does at random to a crop's place and colours."""
    changes = {name: getattr(recipe, name) for name in ("scales", "flips", "brightness", "contrast", "saturation")}
    if recipe.augmentation == "albumentations":
        return {"transforms": [data.like_native(recipe.crop_px, **changes, ignore=labels.ignore)]}
    return changes


def _silent(line):
    """The log of a process that is not the chief."""


def _weighted_epochs(recipe):
    """Number of epochs in which the classes' weights count; 0: there are none."""
    return 0 if recipe.class_weights == "none" else max(1, round(recipe.weighted_share * recipe.epochs))


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
    with open(path, newline="", encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
