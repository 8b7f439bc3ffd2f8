"""What a run writes while it trains."""

import csv
import math
import time
from pathlib import Path

import keras
import numpy as np

from kseg.errors import InputError
from kseg.files import replacing
from kseg.training.averaging import averaged
from kseg.training.checkpoint import save_model, seed_states
from kseg.training.distribution import alone
from kseg.training.supervision import prediction_model


class RunFiles(keras.callbacks.Callback):
    """After each epoch: `history.csv`, `best.keras` when the validation improved, and last of all `last.keras`.

    `last.keras` is the point from which a run is resumed. It comes last, so a kill between the files only means
    that one epoch is repeated, with the same result.

    Args:
        folder: of the run.
        labels: LabelSet that goes into the files.
        precision: name of the dtype policy, kept in the state.
        state: what `read_state` gave, when a run goes on.
        patience: validations without a better mean IoU after which `fit` ends, or None.
        writes: False where another process writes the files: then the history is only kept.
    """

    def __init__(self, folder, labels, precision, state=None, patience=None, writes=True):
        super().__init__()
        self.folder = Path(folder)
        self.labels = labels
        self.precision = precision
        self.patience = patience
        self.history = list(state["history"]) if state else []
        self.best = state["best"] if state else {}
        self.writes = writes

    def on_epoch_begin(self, epoch, logs=None):
        self._started = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        entry = {"epoch": epoch + 1, "learning_rate": float(np.asarray(self.model.optimizer.learning_rate))}
        # A class that the epoch never met has no IoU: left out, as it has no meaning to a reader of the table.
        entry |= {name: float(v) for name, v in logs.items() if not (_of_a_class(name) and math.isnan(v))}
        if not math.isfinite(entry["loss"]):
            # Kept out of the files: the last good state stays, and a new run can start from it (`weights`).
            nothing = "" if self.history else f" (and delete {self.folder}, which holds nothing yet)"
            raise InputError(f"the loss became {entry['loss']} in epoch {epoch + 1}; lower `learning_rate`{nothing}")
        entry["seconds"] = round(time.monotonic() - self._started, 2)
        self.history.append(entry)
        self._write_history()
        # A NaN compares false, so it is never the best.
        if entry.get("val_mean_iou", -1.0) > self.best.get("val_mean_iou", -1.0):
            self.best = entry
            with averaged(self.model):
                self._save(prediction_model(self.model), self.folder / "best.keras", self.labels)
        state = {
            "epoch": epoch,
            "precision": self.precision,
            # Not epochs x steps: a loss-scale optimizer does not count the steps that it skips.
            "iterations": int(np.asarray(self.model.optimizer.iterations)),
            "seeds": seed_states(self.model),
            "history": self.history,
            "best": self.best,
        }
        self._save(self.model, self.folder / "last.keras", self.labels, state, include_optimizer=True)
        # After the state is on disk: a resumed run comes to the same end.
        if ended_early(self.history, self.patience):
            self.model.stop_training = True

    def _save(self, *what, **how):
        if self.writes:
            with alone():
                save_model(*what, **how)

    def _write_history(self):
        if not self.writes:
            return
        names = list(dict.fromkeys(name for entry in self.history for name in entry))
        with (
            replacing(self.folder / "history.csv") as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.history)


def ended_early(history, patience):
    """Whether the last `patience` validations of a history all brought no better mean IoU.

    Args:
        history: dicts; those of validated epochs hold `val_mean_iou`.
        patience: number of validations, or None for never.
    """
    values = [entry["val_mean_iou"] for entry in history if "val_mean_iou" in entry]
    values = [value if math.isfinite(value) else -1.0 for value in values]
    return patience is not None and len(values) > patience and max(values[-patience:]) <= max(values[:-patience])


def _of_a_class(name):
    return name.removeprefix("val_").startswith("iou_")


class ProgressBar(keras.callbacks.ProgbarLogger):
    """`fit`'s progress bar with few numbers: the others are for TensorBoard and `history.csv`."""

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, _few(logs))

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, _few(logs))


def _few(logs):
    shown = ("loss", "mean_iou", "pixel_accuracy")
    return {name: value for name, value in (logs or {}).items() if name.removeprefix("val_") in shown}


class EndAfter(keras.callbacks.Callback):
    """Ends `fit` after an epoch, counted from 1, that need not be the last of the run which its lines tell of."""

    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.epochs:
            self.model.stop_training = True


class StepLines(keras.callbacks.Callback):
    """A line every so often within an epoch, for a log file, where `fit`'s progress bar would be a mess.

    Args:
        log: called with each line.
        every_s: seconds between lines.
    """

    def __init__(self, log, every_s=60.0):
        super().__init__()
        self.log = log
        self.every_s = every_s

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._last = epoch + 1, time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        if time.monotonic() - self._last >= self.every_s:
            self._last = time.monotonic()
            steps = self.params["steps"]
            self.log(f"  epoch {self._epoch}, step {batch + 1} of {steps}: loss {float(logs['loss']):.4f}")
