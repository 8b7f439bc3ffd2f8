"""What a run writes while it trains."""

import csv
import math
import time
from pathlib import Path

import keras
import numpy as np

from kseg.errors import InputError
from kseg.files import replacing
from kseg.training.checkpoint import save_model, seed_states
from kseg.training.distribution import alone


class RunFiles(keras.callbacks.Callback):
    """After each epoch: `history.csv`, `best.keras` when the validation improved, and last of all `last.keras`.

    `last.keras` is the point from which a run is resumed. It comes last, so a kill between the files only means
    that one epoch is repeated, with the same result.

    Args:
        folder: of the run.
        labels: LabelSet that goes into the files.
        precision: name of the dtype policy, kept in the state.
        state: what `read_state` gave, when a run goes on.
        writes: False where another process writes the files: then the history is only kept.
    """

    def __init__(self, folder, labels, precision, state=None, writes=True):
        super().__init__()
        self.folder = Path(folder)
        self.labels = labels
        self.precision = precision
        self.history = list(state["history"]) if state else []
        self.best = state["best"] if state else {}
        self.writes = writes

    def on_epoch_begin(self, epoch, logs=None):
        self._started = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        entry = {"epoch": epoch + 1, "learning_rate": float(np.asarray(self.model.optimizer.learning_rate))}
        entry |= {name: float(value) for name, value in logs.items()}
        if not math.isfinite(entry["loss"]):
            # Kept out of the files: the last good state stays, and a new run can start from it (`weights`).
            raise InputError(f"the loss became {entry['loss']} in epoch {epoch + 1}; lower `learning_rate`")
        entry["seconds"] = round(time.monotonic() - self._started, 2)
        self.history.append(entry)
        self._write_history()
        # A NaN compares false, so it is never the best.
        if entry.get("val_mean_iou", -1.0) > self.best.get("val_mean_iou", -1.0):
            self.best = entry
            self._save(self.model, self.folder / "best.keras", self.labels)
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

    def _save(self, *what, **how):
        if self.writes:
            with alone():
                save_model(*what, **how)

    def _write_history(self):
        if not self.writes:
            return
        names = list(dict.fromkeys(name for entry in self.history for name in entry))
        with replacing(self.folder / "history.csv") as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.history)


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


class LearningCurves(keras.callbacks.Callback):
    """TensorBoard logs: every number of an epoch, and overlays of the same few validation images.

    Without the package tensorboard (extra `tensorboard`) it does nothing.

    Args:
        folder: for the log files.
        source: source of kseg.data; its first `pictures` images are shown.
        pictures: number of images.
        predict: function images -> scores, in the place of the model's own `predict_on_batch`.
    """

    def __init__(self, folder, source, pictures=3, predict=None):
        super().__init__()
        self.folder = Path(folder)
        self.source = source
        self.indices = range(min(pictures, len(source.names)))
        self.predict = predict
        self._writer = _summary_writer(self.folder)

    def on_epoch_end(self, epoch, logs=None):
        if self._writer is None:
            return
        from tensorflow import summary

        with self._writer.as_default(step=epoch + 1):
            for name, value in logs.items():
                summary.scalar(name, float(value))
            summary.scalar("learning_rate", float(np.asarray(self.model.optimizer.learning_rate)))
            if "val_mean_iou" in logs:
                for index in self.indices:
                    summary.image(self.source.names[index], self._panel(index)[None])
        self._writer.flush()

    def _panel(self, index):
        """uint8 [H, 2 W, 3]: truth beside prediction."""
        image, label = self.source.load(index)
        labels = self.source.labels
        predict = self.predict or self.model.predict_on_batch
        predicted = np.asarray(predict(image[None].astype(np.float32)))[0].argmax(-1)
        return np.concatenate([labels.overlay(image, label), labels.overlay(image, predicted)], axis=1)


def _summary_writer(folder):
    try:
        import tensorboard  # noqa: F401  tf.summary needs it, and does not come with it
        from tensorflow import summary
    except ModuleNotFoundError:
        return None
    return summary.create_file_writer(str(folder))
