"""What TensorBoard shows of a run while it trains: curves, pictures, the confusion matrix."""

import math
from contextlib import nullcontext
from pathlib import Path

import keras
import numpy as np
from PIL import Image, ImageDraw

from kseg.metrics import ConfusionMatrix
from kseg.training.averaging import averaged

_CELL_PX = 34
# Of a matrix of many classes the cells shrink, and below this size hold no numbers.
_LARGEST_PX, _WRITTEN_PX = 1500, 20
_BLUE = np.array((21, 84, 150))


class LearningCurves(keras.callbacks.Callback):
    """TensorBoard logs: every number of an epoch, overlays of the same few validation images, the confusion matrix.

    Each epoch: losses, learning rate, every score (with `names` in the model's ConfusionMatrix the IoU of each class)
    as scalars, and the images under `overlays/`, truth beside prediction. After each validation also the picture
    `confusion_matrix`. A class that an epoch never met has no score and no point.

    Without the package tensorboard (extra `tensorboard`) it does nothing.

    Args:
        folder: for the log files.
        source: source of kseg.data; its first `pictures` images are shown.
        pictures: number of images.
        shared: SharedValidation that many devices do in the place of `fit`; it predicts and counts then.
    """

    def __init__(self, folder, source, pictures=3, shared=None):
        super().__init__()
        self.folder = Path(folder)
        self.source = source
        self.indices = range(min(pictures, len(source.names)))
        self.shared = shared
        self._writer = _summary_writer(self.folder)
        self._matrix = None

    def on_test_end(self, logs=None):
        # Now, because the next epoch's crops are counted in the same metric.
        self._matrix = confusion_counts(self.model)

    def on_epoch_end(self, epoch, logs=None):
        if self._writer is None:
            return
        from tensorflow import summary

        with self._writer.as_default(step=epoch + 1):
            for name, value in logs.items():
                if not math.isnan(float(value)):
                    summary.scalar(name, float(value))
            summary.scalar("learning_rate", float(np.asarray(self.model.optimizer.learning_rate)))
            # With several processes, changing a weight is a meeting of all, and this runs in one of them.
            with nullcontext() if self.shared else averaged(self.model):
                for index in self.indices:
                    summary.image(f"overlays/{self.source.names[index]}", self._panel(index)[None])
            matrix = self.shared.matrix if self.shared else self._matrix
            if matrix is not None:
                picture = confusion_picture(matrix, self.source.labels.names)
                summary.image("confusion_matrix", picture[None])
                self._matrix = None
        self._writer.flush()

    def on_train_end(self, logs=None):
        if self._writer is not None:
            self._writer.close()

    def _panel(self, index):
        """uint8 [H, 2 W, 3]: truth beside prediction."""
        image, label = self.source.load(index)
        labels = self.source.labels
        scores = (self.shared or self.model).predict_on_batch(image[None].astype(np.float32))
        scores = scores[0] if isinstance(scores, list) else scores
        predicted = np.asarray(scores)[0].argmax(-1)
        return np.concatenate([labels.overlay(image, label), labels.overlay(image, predicted)], axis=1)


def confusion_picture(matrix, names):
    """A confusion matrix as a picture, drawn with Pillow alone: the darker a cell, the larger its share of the row.

    Args:
        matrix: counts [classes, classes], rows truth, columns prediction; a class without true pixels has a white row.
        names: one name a class; above each column stands its number, before each row number and name.
    Returns:
        uint8 [H, W, 3]. Cells hold their share in per cent.
    """
    counts = np.asarray(matrix, np.float64)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    titles = [f"{name}  {place}" for place, name in enumerate(names)]
    canvas = Image.new("RGB", (10, 10))
    left = 12 + int(max(ImageDraw.Draw(canvas).textlength(title) for title in titles))
    top = 20
    cell = max(1, min(_CELL_PX, _LARGEST_PX // len(names)))
    written = cell >= _WRITTEN_PX  # else there is room for the colours alone
    left = left if written else 4
    canvas = Image.new("RGB", (left + cell * len(names) + 4, top + cell * len(names) + 4), "white")
    draw = ImageDraw.Draw(canvas)
    for row, title in enumerate(titles):
        middle = top + cell * row + cell // 2
        if written:
            draw.text((left - 6, middle), title, fill="black", anchor="rm")
            draw.text((left + cell * row + cell // 2, top - 10), str(row), fill="black", anchor="mm")
        for column, share in enumerate(shares[row]):
            corner = (left + cell * column, top + cell * row)
            colour = tuple(int(v) for v in 255 + share * (_BLUE - 255))
            gap = 2 if written else 1
            draw.rectangle((*corner, corner[0] + cell - gap, corner[1] + cell - gap), fill=colour)
            if written:
                text = (corner[0] + cell // 2, middle)
                draw.text(text, f"{100 * share:.0f}", fill="white" if share > 0.5 else "black", anchor="mm")
    return np.asarray(canvas)


def confusion_counts(model):
    """The counts in the ConfusionMatrix that a model was compiled with, or None where it has none, or has met scores
    that are not finite: a loss that is not is told at the end of the epoch, with what to do."""
    found = [inner for outer in model.metrics for inner in getattr(outer, "metrics", [outer])]  # Keras wraps them
    metric = next((metric for metric in found if isinstance(metric, ConfusionMatrix)), None)
    try:
        return None if metric is None else metric.matrix()
    except ValueError:
        return None


def _summary_writer(folder):
    try:
        import tensorboard  # noqa: F401  tf.summary needs it, and does not come with it
        from tensorflow import summary
    except ModuleNotFoundError:
        return None
    return summary.create_file_writer(str(folder))
