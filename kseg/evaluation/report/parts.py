"""The parts of the HTML report that show a run's own numbers and pictures. All text from files is escaped."""

import base64
import io
import math
from html import escape

import numpy as np
from PIL import Image

from kseg.errors import InputError
from kseg.evaluation import pictures
from kseg.evaluation.report import tables
from kseg.evaluation.report.charts import COLOURS, Line, line_chart, strip_chart
from kseg.labels import VOID_COLOUR

_WHOLE_MATRIX = 25


def table(content, caption="", kind=""):
    """A Table as HTML that scrolls sideways within its own frame; `kind` is "heat", "words" or ""."""
    heads = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in content.headings)
    choice = any(cell.best for row in content.rows for cell in row)
    body = []
    for place, (name, *cells) in enumerate(content.rows):
        note = content.notes[place] if content.notes else ""
        small = f"<small>{_breakable(note)}</small>" if note else ""
        row = "".join(_cell(cell, choice, kind) for cell in cells)
        body.append(f'<tr><th scope="row">{_breakable(name.text)}{small}</th>{row}</tr>')
    told = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="wide" tabindex="0" role="group" aria-label="{escape(caption or "table")}">'
        f'<table class="{kind}">{told}<thead><tr>{heads}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
    )


def _breakable(text):
    """Escaped, and free to go on in the next line after an underscore, where names of runs are long."""
    return escape(text).replace("_", "_<wbr>")


def _cell(cell, choice, kind):
    classes = " ".join(filter(None, ("best" if cell.best else "", "room" if choice and kind != "words" else "")))
    style = f' style="--v:{cell.share:.3f}"' if kind == "heat" and cell.share is not None else ""
    told = (
        f'<span aria-label="{escape(cell.text)}, best">{escape(cell.text)}</span>' if cell.best else escape(cell.text)
    )
    return f'<td class="{classes}"{style}>{told}</td>'


def numbers(entry):
    """The scores and circumstances of one entry as large numbers."""
    content = tables.scores_table([entry])
    errors = {heading for key, heading in tables.metrics_of([entry]) if tables.is_error(key)}
    scores = {heading for _, heading in tables.metrics_of([entry])} - errors
    items = ""
    for heading, cell in zip(content.headings[1:], content.rows[0][1:], strict=True):
        unit = " <small>%</small>" if heading in scores else ""
        if cell.text != tables.ABSENT:
            items += f"<div><dt>{escape(heading)}</dt><dd>{escape(cell.text)}{unit}</dd></div>"
    return f'<dl class="numbers">{items}</dl>' if items else ""


def settings(entry):
    """All settings of one entry that are set, as a list that fills the width."""
    rows = tables.settings_table([entry], differing=False).rows
    items = "".join(f"<div><dt>{_breakable(name.text)}</dt><dd>{escape(value.text)}</dd></div>" for name, value in rows)
    return f'<dl class="settings">{items}</dl>'


def curves(entries):
    """Loss, mean IoU and learning rate of all entries, with a legend."""
    charts = []
    for key, title, factor in (
        ("loss", "Loss", 1),
        ("mean_iou", "Mean IoU", 100),
        ("learning_rate", "Learning rate", 1),
    ):
        chart = line_chart(title, _lines(entries, key, factor), linear=key == "mean_iou")
        unit = " <small>in per cent</small>" if factor == 100 else ""
        charts.append(f"<figure><figcaption>{title}{unit}</figcaption>{chart}</figure>")
    legend = [_swatch(entry.name, colour) for colour, entry in enumerate(entries)] if len(entries) > 1 else []
    legend += ["<li><i></i>validation images, whole</li>", '<li><i class="thin"></i>training crops</li>']
    legend = f'<ul class="legend">{"".join(legend)}</ul>'
    return f'<h2>Learning curves</h2>\n{legend}\n<div class="charts">{"".join(charts)}</div>'


def _lines(entries, key, factor):
    """One line a training and kind of images; the learning rate has no kind."""
    lines = []
    for colour, entry in enumerate(entries):
        for training in entry.trainings:
            seed = f", {training.folder.name}" if len(entry.trainings) > 1 else ""
            for name, faint in ((key, key != "learning_rate"), (f"val_{key}", False)):
                known = [row for row in training.history if math.isfinite(row.get(name, math.nan))]
                points = tuple((row["epoch"], factor * row[name]) for row in known)
                lines.append(Line(f"{entry.name}{seed}", points, colour, faint))
    return lines


def _swatch(name, colour):
    kind = f"s{colour % COLOURS}{' dashed' if colour >= COLOURS else ''}"
    return f'<li><i class="{kind}"></i>{escape(name)}</li>'


def class_scores(groups):
    """IoU of each class of each group: bars for one entry, a table for several."""
    blocks = []
    for group in groups:
        finished = [entry for entry in group.entries if entry.finished]
        if not finished or not group.classes:
            continue
        several = len(groups) > 1
        if len(finished) > 1:
            content = tables.classes_table(finished, group.classes)
            blocks.append(table(content, f"On {group.title}" if several else "", "heat"))
        else:
            heading = f"<h3>{escape(finished[0].name)}</h3>" if several or len(group.entries) > 1 else ""
            blocks.append(f"{heading}{_bars(finished[0], group.classes)}")
    if not blocks:
        return ""
    return '<h2>IoU of each class</h2>\n<p class="lead">In per cent.</p>\n' + "\n".join(blocks)


def _bars(entry, classes):
    """A bar a class, in the colour that the class has in the pictures."""
    labels = entry.first.labels
    known = labels is not None and labels.names == classes
    rows = []
    for place, (name, cell) in enumerate(zip(classes, tables.classes_table([entry], classes).rows[0][1:], strict=True)):
        colour = f";background:rgb{labels.colours[place]};border:1px solid var(--rule)" if known else ""
        length = f"width:{100 * (cell.share or 0):.1f}%{colour}"
        bar = f'<div class="track" aria-hidden="true"><span style="{length}"></span></div>'
        rows.append(f'<div><dt>{escape(name)}</dt><dd>{bar}</dd><dd class="value">{escape(cell.text)}</dd></div>')
    return f'<dl class="bars">{"".join(rows)}</dl>'


def per_image(entries):
    """The mean IoU of every single image, one strip an entry."""
    rows = []
    for colour, entry in enumerate(entries):
        values = [
            one["mean_iou"] for one in (entry.first.scores or {}).get("per_image", []) if one["mean_iou"] is not None
        ]
        if values:
            rows.append((entry.first_name, values, colour))
    if not rows:
        return ""
    chart = strip_chart("Mean IoU of each image", rows)
    return (
        '<h2>Image by image</h2>\n<p class="lead">Each mark is the mean IoU of one validation image, over the classes '
        f'it shows; the bold one is the median.</p>\n<div class="charts strips"><figure>{chart}</figure></div>'
    )


def samples(entries):
    """The best and the worst images of each entry, each as image, truth, prediction and errors."""
    shown = [entry for entry in entries if entry.first.pictures]
    if not shown:
        return ""
    width = 480 if len(shown) <= 3 else 320
    blocks = []
    for place, entry in enumerate(shown):
        inside = _legend(entry.first.labels) + "".join(_sample(entry, *one, width) for one in entry.first.pictures)
        if len(shown) == 1:
            blocks.append(inside)
        else:
            state = " open" if place == 0 else ""
            summary = f"<summary>{escape(entry.first_name)}</summary>"
            blocks.append(f'<details{state}>{summary}<div class="inside">{inside}</div></details>')
    return (
        '<h2>Best and worst images</h2>\n<p class="lead">By the mean IoU of the image. Errors are red.</p>\n'
        + "".join(blocks)
    )


def _legend(labels):
    if labels is None:
        return ""
    shown = list(zip(labels.names, labels.colours, strict=True))
    if labels.ignore is not None:
        shown.append(("unlabelled", VOID_COLOUR))
    items = "".join(f'<li><b style="background:rgb{tuple(colour)}"></b>{escape(name)}</li>' for name, colour in shown)
    return f'<ul class="legend">{items}</ul>'


def _sample(entry, end, rank, name, value, path, width):
    told = "" if value is None else f" <span>mean IoU {tables.percent(value)}</span>"
    tiles = []
    for title, tile in open_panel(path):
        alt = f"{title} of {name}, {end} image number {rank} of {entry.first_name}"
        tiles.append(
            f'<figure><img loading="lazy" src="{_data_uri(title, tile, width)}" alt="{escape(alt)}">'
            f"<figcaption>{title}</figcaption></figure>"
        )
    return (
        f'<figure class="sample"><figcaption>{end.capitalize()} {rank}: {escape(name)}{told}</figcaption>'
        f'<div class="tiles">{"".join(tiles)}</div></figure>'
    )


def open_panel(path):
    """[(title, Image)] of the four pictures of a panel file.

    Raises:
        InputError: the file is no such panel.
    """
    try:
        with Image.open(path) as panel:
            return pictures.panel_tiles(panel.convert("RGB"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a picture of a run ({error})") from error


def _data_uri(title, tile, width):
    """Photos as JPEG; masks, which have few colours and sharp edges, as palette PNG."""
    mask = title in ("truth", "prediction")
    if tile.width > width:
        size = (width, round(tile.height * width / tile.width))
        tile = tile.resize(size, Image.Resampling.NEAREST if mask else Image.Resampling.LANCZOS)
    file = io.BytesIO()
    if mask:
        tile.quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    else:
        tile.save(file, "JPEG", quality=84, optimize=True)
    kind = "png" if mask else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def confusions(entries):
    """The confusion matrix of each entry, as shares of the true class."""
    shown = [entry for entry in entries if entry.first.scores and entry.first.scores["confusion_matrix"]]
    blocks = []
    for place, entry in enumerate(shown):
        matrix = _matrix(entry)
        if len(shown) > 1:
            state = " open" if place == 0 else ""
            matrix = f"<details{state}><summary>{escape(entry.first_name)}</summary>{matrix}</details>"
        blocks.append(matrix)
    if not blocks:
        return ""
    return (
        '<h2>Confusion</h2>\n<p class="lead">Rows are the true classes, columns the predicted ones: the share of each '
        "row in per cent. The diagonal is right.</p>\n" + "\n".join(blocks)
    )


def _matrix(entry):
    names = entry.classes
    counts = np.array(entry.first.scores["confusion_matrix"], np.float64)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    heads = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in names)
    rows = []
    for name, row in zip(names, shares, strict=True):
        cells = []
        for share in row:
            text = f"{100 * share:.0f}" if len(names) <= _WHOLE_MATRIX or share >= 0.1 else ""
            cells.append(f'<td class="v{" zero" if text == "0" else ""}" style="--v:{share:.3f}">{text}</td>')
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    label = f"Confusion matrix of {entry.first_name}"
    return (
        f'<div class="wide" tabindex="0" role="group" aria-label="{escape(label)}"><table class="confusion"><thead><tr>'
        f"<td>true ↓ predicted →</td>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
