"""What the tables of a report say, free of HTML and Markdown."""

import math
from dataclasses import dataclass

from kseg.evaluation.report.commands import without_folders
from kseg.evaluation.report.published import find_data_set
from kseg.evaluation.report.runs import mean_and_deviation

# Scores of every run: key, heading.
_METRICS = (("mean_iou", "mean IoU"), ("pixel_accuracy", "pixel accuracy"), ("mean_dice", "mean Dice"))
_HEADINGS = dict(_METRICS) | {"f_error": "1 - F-score", "v_rand": "V_rand", "v_info": "V_info"}
_FACTS = ("data", "splits", "precision", "backend", "machine", "keras", "kseg")
ABSENT = "–"


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: as it is shown, not escaped.
        best: whether it holds the best value of its column.
        share: a value in 0..1 that may be drawn as a shade, or None.
    """

    text: str
    best: bool = False
    share: float | None = None


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows.

    Attributes:
        headings: one a column.
        rows: tuples of Cell.
        notes: one a row, words in small print below its name, or "".
    """

    headings: tuple
    rows: tuple
    notes: tuple = ()


@dataclass(frozen=True)
class Group:
    """Entries that were scored on the same images with the same classes, as far as their files tell.

    Attributes:
        entries: list of Entry.
        data: name of the data set, or None.
        split: of the validation images, or None.
        images: number of the validation images, or None.
        classes: names of the classes, or None.
    """

    entries: list
    data: str | None
    split: str | None
    images: int | None
    classes: tuple | None

    @property
    def data_set(self):
        """The DataSet it is, or None for data of somebody's own."""
        return find_data_set(self.data, self.classes)

    @property
    def title(self):
        """The group in a few words."""
        images = f"{self.images} images" if self.images else "images"
        on = f"{images} of {self.data}" if self.data else images
        kinds = f", {len(self.classes)} classes" if self.classes else ""
        return on + (f" ({self.split})" if self.split else "") + kinds


def groups(entries):
    """Split entries into groups whose scores may stand side by side, in the order of their first entries."""
    found = []
    for entry in entries:
        key = (entry.data, entry.split, entry.images, entry.classes)
        for place, group in enumerate(found):
            known = (group.data, group.split, group.images, group.classes)
            # An older or unfinished run does not say everything; what it says must not contradict the others.
            if all(a is None or b is None or a == b for a, b in zip(key, known, strict=True)):
                both = [a if a is not None else b for a, b in zip(known, key, strict=True)]
                found[place] = Group([*group.entries, entry], *both)
                break
        else:
            found.append(Group([entry], *key))
    return found


def metrics_of(entries):
    """[(key, heading)] of the scores that any of the entries has, those of every run first."""
    known = {key for key, _ in _METRICS} | {"mean_accuracy", "frequency_weighted_iou", "images", "iou"}
    further = {}
    for training in (training for entry in entries for training in entry.finished):
        for key, value in training.scores.items():
            if key not in known and isinstance(value, float):
                further[key] = heading(key)
    known_sets = dict.fromkeys(entry.data_set for entry in entries if entry.data_set)
    for key in (key for data_set in known_sets for one in data_set.published for key in one.scores):
        if key not in known:  # beside a published figure stands a column, also of runs that were not scored in it
            further[key] = heading(key)
    return [*_METRICS, *further.items()]


def heading(key):
    """The name of a score in words."""
    return _HEADINGS.get(key) or key.replace("_", " ")


def scores_table(entries):
    """Scores (mean and deviation over seeds, the best of a column marked), then size, time and seeds where known."""
    metrics = metrics_of(entries)
    columns = [[_spread(entry.values(key), key) for entry in entries] for key, _ in metrics]
    marked = [_mark(column, key) for (key, _), column in zip(metrics, columns, strict=True)]
    about = {
        "parameters": [parameters(entry) for entry in entries],
        "time": [duration(entry.first.seconds) for entry in entries],
        "seeds": [str(len(entry.trainings)) for entry in entries],
    }
    about = {title: texts for title, texts in about.items() if set(texts) - {ABSENT} and set(texts) != {"1"}}
    rows = [
        (Cell(entry.name), *(column[place] for column in marked), *(Cell(texts[place]) for texts in about.values()))
        for place, entry in enumerate(entries)
    ]
    notes = tuple("; ".join(filter(None, (entry.network, entry.state()))) for entry in entries)
    return Table(("run", *(title for _, title in metrics), *about), tuple(rows), notes)


def classes_table(entries, classes):
    """IoU of each class, entries as rows, for entries that have these classes."""
    columns = []
    for name in classes:
        column = [_spread(entry.class_values(name), name) for entry in entries]
        columns.append(_mark(column, name))
    rows = [(Cell(entry.name), *(column[place] for column in columns)) for place, entry in enumerate(entries)]
    return Table(("run", *classes), tuple(rows))


def settings_table(entries, differing):
    """Recipe and circumstances, a setting a row.

    Args:
        entries: list of Entry.
        differing: only the settings in which the entries differ; otherwise all.
    """
    names = dict.fromkeys(name for entry in entries for name in entry.first.recipe)
    rows = [(name, [_setting(entry.first.recipe.get(name)) for entry in entries]) for name in names]
    for name in _FACTS:  # the recipe may have asked for precision "auto"; this is what it came to
        title = f"{name} as run" if name in names else name
        rows.append((title, [_setting(entry.first.facts.get(name)) for entry in entries]))
    several = any(len(entry.trainings) > 1 for entry in entries)
    kept = [
        (Cell(name), *map(Cell, values))
        for name, values in rows
        if (len(set(values)) > 1 or not differing) and set(values) != {ABSENT} and not (several and name == "seed")
    ]
    return Table(("setting", *(entry.name for entry in entries)), tuple(kept))


def percent(value):
    """0.8641 -> "86.4"."""
    return ABSENT if value is None else f"{100 * value:.1f}"


def parameters(entry):
    """Number of parameters in words."""
    return count(entry.first.facts.get("parameters"))


def count(value):
    """8412345 -> "8.41 M"."""
    if value is None:
        return ABSENT
    return f"{value / 1e6:.2f} M" if value < 1e7 else f"{value / 1e6:.1f} M"


def duration(seconds):
    """Seconds -> "45 s", "12 min", "1 h 25 min"."""
    if seconds is None:
        return ABSENT
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def score(value, key):
    """A score as text: percent with one decimal; an error as a fraction, as the challenges give it."""
    if value is None:
        return ABSENT
    return f"{value:.4f}" if is_error(key) else percent(value)


def is_error(key):
    """Whether less of this score is better."""
    return key.endswith("_error")


def _spread(values, key):
    """(mean or None, its text) over seeds."""
    mean, deviation = mean_and_deviation(values)
    text = score(mean, key)
    return mean, text if deviation is None else f"{text} ± {score(deviation, key)}"


def _mark(column, key):
    """Cells of a column, its best value marked where there is a choice."""
    known = [mean for mean, _ in column if mean is not None]
    best = (min if is_error(key) else max)(known) if len(known) > 1 else math.nan
    return [Cell(text, mean == best, None if mean is None else min(max(mean, 0.0), 1.0)) for mean, text in column]


def _setting(value):
    if value is None or value == []:
        return ABSENT
    if isinstance(value, list):
        return ", ".join(map(_setting, value))
    if isinstance(value, float):
        return f"{value:g}"
    return without_folders(str(value))
