"""Runs -> RESULTS.md: a table a data set, with the command of every row; what it was made from lies beside it."""

import re
from pathlib import Path
from urllib.parse import quote

from kseg.errors import InputError
from kseg.evaluation import pictures
from kseg.evaluation.report import tables
from kseg.evaluation.report.kept import check_kept_apart, keep, kept_training
from kseg.evaluation.report.tables import ABSENT, Cell, Table
from kseg.files import replacing


def write_markdown(entries, path, pictures_of=(), command=None, notes=""):
    """Write the page of results, and beside it what it was made from.

    Args:
        entries: list of Entry (`read_entries`), not empty.
        path: of the page; its folder must exist. In the folder `results` beside it are the charts and, in `runs`, the
            small files of the runs: from these the page can be made again.
        pictures_of: names of the data sets whose images may be shown; of the others there are only charts.
        command: the command that makes the page, to be shown on it.
        notes: Markdown that stands before the tables, such as what did not help.
    Raises:
        InputError: a name in `pictures_of` is no data set of these runs, two runs would be kept in one folder, a
            picture of a run cannot be read, or the disk is full.
    """
    path, groups = Path(path), tables.groups(entries)
    named = dict.fromkeys(group.data for group in groups if group.data)
    if unknown := [name for name in pictures_of if name not in named]:
        raise InputError(f"no run is of the data {', '.join(unknown)}; there are: {', '.join(named) or 'none named'}")
    folder = path.parent / "results"
    check_kept_apart(entries, folder / "runs")
    folder.mkdir(exist_ok=True)
    parts = [_introduction(command)]
    if notes.strip():
        parts.append(notes.strip())
    slugs = []
    for group in groups:
        slug = _slug(group, slugs)
        slugs.append(slug)
        parts.append(_section(group, slug, folder, group.data in pictures_of, _suffix(group, groups)))
    parts.append(_sources(groups))
    with replacing(path) as temporary:
        temporary.write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")


def _introduction(command):
    made = f"Made from the runs' own files by\n\n```sh\n{command}\n```\n\n" if command else ""
    return (
        f"# Results\n\n{made}"
        "Scores are in per cent, over all pixels of all validation images together, unlabelled pixels left out; "
        "several seeds: mean ± standard deviation. Each is of the network with the highest validation mean IoU of its "
        "run, so it is slightly in that network's favour. **Bold** is the best of a column. Published figures are in "
        "italics, with what they were measured on."
    )


def _suffix(group, groups):
    """What a title needs beside the data set's name to be told from the others."""
    same = [other for other in groups if other.data == group.data]
    if len(same) == 1:
        return ""
    if sum(other.split == group.split for other in same) == 1:
        return f" ({group.split})"
    return f" ({group.split}, {group.images} images)"


def _section(group, slug, folder, with_pictures, suffix):
    known = group.data_set
    title = known.title if known else group.data or "A data set that the runs do not name"
    lead = f"Scored on {group.title}." + (f" {known.remark}" if known and known.remark else "")
    parts = [f"## {_text(title + suffix)}", _text(lead), _markdown(_results(group))]
    finished = [entry for entry in group.entries if entry.finished]
    if finished and group.classes:
        parts += ["IoU of each class:", _markdown(tables.classes_table(finished, group.classes))]
    histories = [(entry.name, [training.history for training in entry.trainings]) for entry in group.entries]
    if any(history for _, each in histories for history in each):
        pictures.save_comparison_curves(histories, folder / f"{slug}_curves.png")
        chart = f"![Loss, mean IoU and learning rate over the epochs](results/{slug}_curves.png)"
        parts.append(f"{chart}\n\n*With points: whole validation images; thin: training crops.*")
    shown = max(finished, key=_mean_iou) if with_pictures and finished else None
    for entry in group.entries:
        keep(entry, folder / "runs", with_pictures=entry is shown)
    if shown:
        parts.append(_shown(shown, folder, known))
    return "\n\n".join(filter(None, parts))


def _mean_iou(entry):
    return tables.mean_and_deviation(entry.values("mean_iou"))[0] or 0.0


def _results(group):
    """The table of scores with network, recipe, machine and command of each row, published figures below."""
    entries, content = group.entries, tables.scores_table(group.entries)
    keys = [key for key, _ in tables.metrics_of(entries)]
    rows = []
    for entry, (name, *cells) in zip(entries, content.rows, strict=True):
        state = f" ({entry.state()})" if entry.state() else ""
        time = tables.duration(entry.first.seconds)
        told = (entry.network, tables.parameters(entry), entry.recipe_name or ABSENT)
        made = (time, _machine(entry), str(len(entry.trainings)), f"`{entry.command}`" if entry.command else ABSENT)
        rows.append((Cell(name.text + state), *map(Cell, told), *cells[: len(keys)], *map(Cell, made)))
    for one in group.data_set.published if group.data_set else ():
        figures = [tables.score(one.scores.get(key), key) for key in keys]
        told = ("published", one.network, tables.count(one.parameters), ABSENT, *figures, ABSENT, ABSENT, ABSENT)
        source = f"{one.source}; on the {one.measured_on}"
        rows.append(tuple(Cell(text if text == ABSENT else f"*{text}*") for text in (*told, source)))
    scores = content.headings[1 : len(keys) + 1]
    made = ("time", "machine", "seeds", "command or source")
    return Table(("run", "network", "parameters", "recipe", *scores, *made), tuple(rows))


def _machine(entry):
    facts = entry.first.facts
    return ", ".join(str(facts[name]) for name in ("machine", "precision") if facts.get(name)) or ABSENT


def _shown(entry, folder, known):
    """The best and the worst images of an entry that is kept."""
    home, lines = kept_training(entry, entry.first, folder / "runs"), []
    for end, rank, name, value, path in entry.first.pictures:
        link = quote((home / "pictures" / f"{path.stem}.jpg").relative_to(folder.parent).as_posix())
        told = "" if value is None else f", mean IoU {tables.percent(value)}"
        caption = f"{end.capitalize()} {rank}: {name}{told}"
        lines.append(f"![{_text(caption)}: image, truth, prediction, errors]({link})\n\n*{_text(caption)}*")
    if not lines:
        return ""
    terms = f" Pictures: {known.source}; terms: {known.terms}." if known else ""
    return "\n\n".join([f"Best and worst images of {_text(entry.first_name)}.{_text(terms)}", *lines])


def _sources(groups):
    lines = [
        f"- **{known.title}**: {known.source}. Terms: {known.terms}."
        for known in dict.fromkeys(group.data_set for group in groups if group.data_set)
    ]
    return "\n".join(["## Data", "", *lines]) if lines else ""


def _markdown(content):
    """A Table in Markdown; best cells bold, columns of numbers to the right."""
    numbers = [all(_is_number(row[column].text) for row in content.rows) for column in range(len(content.headings))]
    lines = [_row(_text(heading) for heading in content.headings)]
    lines.append(_row("--:" if right else ":--" for right in numbers))
    lines += [
        _row(f"**{_text(cell.text)}**" if cell.best else _text(cell.text) for cell in row) for row in content.rows
    ]
    return "\n".join(lines)


def _row(texts):
    return f"| {' | '.join(texts)} |"


def _is_number(text):
    return bool(re.match(r"[\d–*]", text))


def _text(text):
    """Text that Markdown takes literally, up to the `code` and *emphasis* that this module itself puts around cells."""
    pieces = re.split(r"(^`.*`$|^\*[^*]+\*$)", text.replace("\n", " "))
    return "".join(_kept(piece) if place % 2 else _escaped(piece) for place, piece in enumerate(pieces))


def _kept(piece):
    mark = piece[0]
    inside = piece[1:-1]
    return f"{mark}{inside.replace('|', chr(92) + '|') if mark == '`' else _escaped(inside)}{mark}"


def _escaped(text):
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)


def _slug(group, taken):
    slug = re.sub(r"[^a-z0-9]+", "_", (group.data or "data").lower()).strip("_") or "data"
    return slug if slug not in taken else f"{slug}_{1 + sum(other.startswith(slug) for other in taken)}"
