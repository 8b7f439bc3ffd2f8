"""Folder of a run -> what a report says of it. Files that a run does not have, because it is older or not finished,
leave gaps; a file that is damaged is an error."""

import csv
import json
import math
import re
import statistics
import zipfile
from dataclasses import dataclass
from pathlib import Path

from kseg.errors import InputError
from kseg.evaluation.report.commands import clean_command, without_folders
from kseg.evaluation.report.published import find_data_set
from kseg.labels import LabelSet


@dataclass(frozen=True)
class Training:
    """One training, with one seed.

    Attributes:
        folder: Path.
        recipe: fields of the recipe, as in `recipe.json`; fields of older or newer versions are kept.
        history: one dict of numbers an epoch.
        scores: content of `scores.json`, or None while there is none.
        facts: content of `run.json`; empty for runs that are older than that file.
        labels: LabelSet of the network, or None before the first `best.keras`.
    """

    folder: Path
    recipe: dict
    history: tuple
    scores: dict | None
    facts: dict
    labels: LabelSet | None

    @property
    def seconds(self):
        """Training time, float, or None."""
        spent = [entry["seconds"] for entry in self.history if "seconds" in entry]
        return self.facts.get("seconds") or (sum(spent) if spent else None)

    @property
    def pictures(self):
        """[("best" or "worst", rank, image's name, its mean IoU or None, Path of the panel)], best first."""
        return [picture for end in ("best", "worst") for picture in self._pictures(end)]

    def _pictures(self, end):
        scored = [one for one in (self.scores or {}).get("per_image", []) if one["mean_iou"] is not None]
        # As kseg.evaluation.record ranks them: sorting is stable, so at a tie the earlier image comes first.
        scored.sort(key=lambda one: one["mean_iou"], reverse=end == "best")
        for path in sorted((self.folder / "pictures").glob(f"{end}_[0-9]_*.[jp][pn]g")):
            _, rank, stem = path.stem.split("_", 2)
            one = scored[int(rank) - 1] if 1 <= int(rank) <= len(scored) else {"name": stem, "mean_iou": None}
            yield end, int(rank), one["name"], one["mean_iou"], path


@dataclass(frozen=True)
class Entry:
    """A line of a report: one training, or several of the same recipe with other seeds.

    Attributes:
        name: str, different from those of the other entries.
        trainings: tuple of Training, not empty.
    """

    name: str
    trainings: tuple

    @property
    def first(self):
        """The training that is shown where only one can be: the first with scores, else the first."""
        return (self.finished or self.trainings)[0]

    @property
    def first_name(self):
        """Name of `first`: that of the entry, with its seed's folder where there are several."""
        return f"{self.name}, {self.first.folder.name}" if len(self.trainings) > 1 else self.name

    @property
    def finished(self):
        """The trainings that have scores."""
        return tuple(training for training in self.trainings if training.scores is not None)

    @property
    def classes(self):
        """Names of the classes, or None where no file tells them."""
        if self.first.scores:
            return tuple(self.first.scores["iou"])
        return self.first.labels.names if self.first.labels else None

    @property
    def data(self):
        """Name of the data set, without the folders that led to it, or None."""
        spec = self.first.facts.get("data")
        return without_folders(str(spec)).rstrip("/") if spec else None

    @property
    def data_set(self):
        """The DataSet it is, or None for data of somebody's own."""
        return find_data_set(self.data, self.classes)

    @property
    def images(self):
        """Number of validation images, or None."""
        if self.first.scores:
            return self.first.scores["images"]
        return (self.first.facts.get("images") or [None, None])[1]

    @property
    def split(self):
        """Name of the validation split, or None."""
        return (self.first.facts.get("splits") or [None, None])[1]

    @property
    def command(self):
        """The command that started it, without this machine's folders, or None."""
        command = self.first.facts.get("command")
        return clean_command(command, self.name) if command else None

    @property
    def recipe_name(self):
        """Name of the recipe, or None; older runs tell it in their command only."""
        if name := self.first.facts.get("recipe"):
            return name
        found = re.search(r"train\.py\s+(\w+)", self.first.facts.get("command") or "")
        return found and found[1]

    @property
    def network(self):
        """Network and backbone in a few words."""
        recipe = self.first.recipe
        width = f" {recipe['alpha']}" if recipe.get("alpha") else ""
        return str(recipe["model"]) + (f", {recipe['backbone']}{width}" if recipe.get("backbone") else "")

    def values(self, key):
        """What the finished trainings reached in a score; those without it left out."""
        found = [training.scores.get(key) for training in self.finished]
        return [value for value in found if value is not None]

    def class_values(self, name):
        """IoU of a class in each finished training that has one."""
        found = [training.scores["iou"].get(name) for training in self.finished]
        return [value for value in found if value is not None]

    def state(self):
        """What is missing, in words; "" for a finished entry."""
        open_ = [training for training in self.trainings if training.scores is None]
        if not open_:
            return ""
        if len(self.trainings) > 1:
            return f"{len(self.finished)} of {len(self.trainings)} seeds have scores"
        return f"no scores yet: {len(open_[0].history)} of {open_[0].recipe.get('epochs', '?')} epochs done"


def read_entries(folders):
    """Read the folders of runs.

    Args:
        folders: paths; each holds a run, or runs of several seeds as `seed_0`, `seed_1`, ...
    Returns:
        list of Entry in the given order.
    Raises:
        InputError: a folder that is none or holds no run, or a file of it that is damaged.
    """
    folders = [Path(folder) for folder in folders]
    names = [folder.resolve().name for folder in folders]
    entries = []
    for folder, name in zip(folders, names, strict=True):
        if names.count(name) > 1:
            name = f"{folder.resolve().parent.name}/{name}"
        while name in {entry.name for entry in entries}:
            name += "'"
        entries.append(Entry(name, _trainings(folder)))
    return entries


def mean_and_deviation(values):
    """(mean, sample standard deviation or None for one value) of numbers, or (None, None) of none."""
    if not values:
        return None, None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def _trainings(folder):
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    if (folder / "recipe.json").is_file():
        return (_training(folder),)
    seeds = [path for path in folder.glob("seed_*") if (path / "recipe.json").is_file()]
    if not seeds:
        raise InputError(f"{folder}: no run: it holds neither recipe.json nor seed_0, seed_1, ... that do")
    return tuple(_training(path) for path in sorted(seeds, key=_seed_order))


def _seed_order(path):
    return int(number[0]) if (number := re.findall(r"\d+$", path.name)) else 0, path.name


def _training(folder):
    recipe = _read_json(folder / "recipe.json", needed=("model",))
    scores = None
    if (folder / "scores.json").is_file():
        scores = _checked_scores(_read_json(folder / "scores.json", ("images", "mean_iou", "iou")), folder)
    facts = _checked_facts(_read_json(folder / "run.json"), folder) if (folder / "run.json").is_file() else {}
    return Training(folder, recipe, _history(folder / "history.csv"), scores, facts, _labels(folder / "best.keras"))


def _read_json(path, needed=()):
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(value, dict) or not set(needed) <= set(value):
        raise InputError(f"{path}: not what a run writes: a JSON object with {', '.join(needed) or 'fields'} is wanted")
    return value


def _checked_scores(scores, folder):
    """The scores with null for NaN, all numbers proven to be numbers, so that no page has to ask again."""
    try:
        plain = ("images", "per_image", "iou", "confusion_matrix")
        checked = {
            key: number(value)
            for key, value in scores.items()
            if key not in plain and not isinstance(value, dict | list)
        }
        checked["images"] = int(scores["images"])
        checked["iou"] = {str(name): number(value) for name, value in scores["iou"].items()}
        matrix = [[int(count) for count in row] for row in scores.get("confusion_matrix") or []]
        if matrix and {len(matrix), *map(len, matrix)} != {len(checked["iou"])}:
            raise ValueError("the confusion matrix has not a row and a column for each class")
        checked["confusion_matrix"] = matrix
        checked["per_image"] = [
            {"name": str(one["name"]), "mean_iou": number(one["mean_iou"])} for one in scores.get("per_image", [])
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / 'scores.json'}: not the scores of a run ({error})") from error
    return checked


def _checked_facts(facts, folder):
    try:
        for name in ("parameters", "seconds"):
            facts[name] = number(facts.get(name))
        for name in ("images", "splits"):
            if facts.get(name) is not None and len(facts[name]) != 2:
                raise ValueError(f"`{name}` is of training and of validation")
        if not isinstance(facts.get("command"), str | None):
            raise ValueError("`command` is a text")
    except (TypeError, ValueError) as error:
        raise InputError(f"{folder / 'run.json'}: not the facts of a run ({error})") from error
    return facts


def number(value):
    """A finite float, or None for null, NaN and infinity. Raises ValueError for anything else."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"a number is wanted. Received: {value!r}")
    return float(value) if math.isfinite(value) else None


def _history(path):
    # kseg.training.read_history does the same, but brings Keras with it.
    if not path.is_file():
        return ()
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
        if not all("epoch" in row for row in rows):
            raise ValueError("a row without its epoch")
    except (TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: not the history of a run ({error})") from error
    return tuple(rows)


def _labels(path):
    try:
        with zipfile.ZipFile(path) as members:
            return LabelSet.from_dict(json.loads(members.read("labels.json")), where=str(path))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None  # only the colours come from here; kseg.evaluation tells of a bad network
