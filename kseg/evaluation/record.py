"""What a finished run leaves of its best network: the scores of every validation image, charts and telling pictures."""

import heapq
import math
import re
from pathlib import Path

from kseg import data
from kseg.evaluation import pictures
from kseg.evaluation.boundaries import evaluate_boundaries
from kseg.evaluation.scores import evaluate
from kseg.files import write_json
from kseg.metrics import confusion_matrix, scores
from kseg.training import read_history
from kseg.training.plan import SCORES

PICTURES = "pictures"
_SHOWN = 3


def record(folder, predictor, source, progress=None, boundary=None):
    """Score a run's best network on whole images and write what a report of the run is made from.

    In `folder`: `scores.json` (the fields of Scores, and `per_image`: name, mean IoU and pixel accuracy of each
    image, null where it has no labelled pixel; with a boundary also its three scores), `curve.png`, `iou.png`,
    `confusion.png`, and under `pictures/` panels of the three best and the three worst images, such as
    `worst_1_NAME.png`; no image is both. No more than those six are held.

    Args:
        folder: of a run; its `history.csv` is drawn.
        predictor: callable, images [B, H, W, 3] in 0..255 -> scores float [B, H, W, classes].
        source: source of kseg.data, the validation images.
        progress: function of the batches that gives them on, such as a progress bar; None for none.
        boundary: class that parts regions, such as "membrane", for the scores of `kseg.evaluation.boundaries`; or None.
    Returns:
        Scores over all images together.
    Raises:
        InputError: no image, a file that cannot be read, or the network has another number of classes.
        CheckError: the network's scores are not finite.
    """
    folder, labels = Path(folder), source.labels
    seen = _PerImage(source.names, labels)
    progress = progress or iter
    with data.naming_bad_files(source):
        regions = {}
        if boundary is not None:  # first, since it refuses a name that is no class
            batches = progress(data.evaluation_batches(source))
            regions = evaluate_boundaries(predictor, batches, labels, boundary).best
        found = evaluate(predictor, progress(data.evaluation_batches(source)), labels, seen)
    pictures.save_training_curve(read_history(folder), folder / "curve.png")
    pictures.save_iou_chart(found, labels, folder / "iou.png")
    pictures.save_confusion_chart(found, labels, folder / "confusion.png")
    _write_pictures(seen, labels, folder / PICTURES)
    # Last, because a run that has its scores counts as finished.
    write_json(found.to_dict() | regions | {"per_image": seen.entries}, folder / SCORES)
    return found


class _PerImage:
    """Called with each image in turn (`evaluate`'s on_image): its scores, and the images at both ends of the order."""

    def __init__(self, names, labels):
        self.names, self.labels = names, labels
        self.entries = []
        self._best, self._worst = [], []  # heaps of (order, place, image, label, prediction)

    def __call__(self, image, label, prediction):
        numbers = scores(confusion_matrix(label, prediction, len(self.labels), self.labels.ignore))
        place = len(self.entries)
        entry = {"name": str(self.names[place])} | {name: numbers[name] for name in ("mean_iou", "pixel_accuracy")}
        self.entries.append(entry)
        if math.isfinite(numbers["mean_iou"]):
            # Places differ, so arrays are never compared; at a tie the earlier image comes first in both lists.
            _keep(self._best, (numbers["mean_iou"], -place, image, label, prediction))
            _keep(self._worst, (-numbers["mean_iou"], -place, image, label, prediction))

    def extremes(self):
        """{"best": [...], "worst": [...]}: (place, image, label, prediction), the most extreme first; none in both."""
        ranked = sum(math.isfinite(entry["mean_iou"]) for entry in self.entries)
        worst = sorted(self._worst, reverse=True)[: min(_SHOWN, ranked // 2)]
        best = sorted(self._best, reverse=True)[: min(_SHOWN, ranked - len(worst))]
        found = {"best": best, "worst": worst}
        return {end: [(-place, *rest) for _, place, *rest in kept] for end, kept in found.items()}


def _keep(heap, item):
    if len(heap) < _SHOWN:
        heapq.heappush(heap, item)
    else:
        heapq.heappushpop(heap, item)


def _write_pictures(seen, labels, folder):
    folder.mkdir(exist_ok=True)
    # Those of an earlier recording of this run would stand beside the new ones.
    for old in [*folder.glob("best_?_*.png"), *folder.glob("worst_?_*.png")]:
        old.unlink()
    for end, kept in seen.extremes().items():
        for rank, (place, image, label, prediction) in enumerate(kept, start=1):
            name = re.sub(r"[^\w.-]+", "_", Path(seen.entries[place]["name"]).stem)
            pictures.save_panel(image, label, prediction, labels, folder / f"{end}_{rank}_{name}.png")
