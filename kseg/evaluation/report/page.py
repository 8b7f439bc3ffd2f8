"""Runs -> one HTML page that needs nothing beside it: no script, no font, no picture from elsewhere."""

from html import escape
from pathlib import Path

from kseg import __version__
from kseg.evaluation.report import parts, tables
from kseg.evaluation.report.style import CSS
from kseg.files import replacing


def write_html(entries, path):
    """Write a report of one run or a comparison of several.

    Args:
        entries: list of Entry (`read_entries`), not empty.
        path: of the page; its folder must exist.
    Raises:
        InputError: a picture of a run cannot be read, or the disk is full.
    """
    html = page(entries)
    with replacing(Path(path)) as temporary:
        temporary.write_text(html, encoding="utf-8")


def page(entries):
    """The page as text. Whatever the runs' files say is escaped."""
    groups = tables.groups(entries)
    one = entries[0] if len(entries) == 1 else None
    title = one.name if one else f"{len(entries)} runs compared"
    sections = [
        _header(title, one, groups),
        *([_unfinished(one)] if one and one.state() else []),
        _scores(one, groups),
        parts.curves(entries),
        parts.class_scores(groups),
        parts.per_image(entries),
        parts.samples(entries),
        parts.confusions(entries),
        _settings(one, entries),
        _making(entries),
        _footer(groups),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)} – kseg report</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


def _header(title, one, groups):
    if one:
        where = f"scored on {groups[0].title}" if one.finished else one.data
        under = " · ".join(filter(None, (one.network, where, one.first.facts.get("machine"))))
    elif len(groups) == 1:
        under = f"Scored on {groups[0].title}."
    else:
        under = ", ".join(entry.name for group in groups for entry in group.entries)
    return (
        f'<header><p class="over">kseg training report</p><h1>{escape(title)}</h1>'
        f'<p class="under">{escape(under)}</p></header>'
    )


def _unfinished(one):
    return f'<p class="notice">This run is not finished: {escape(one.state())}.</p>'


def _scores(one, groups):
    if one:
        return parts.numbers(one)
    parts_ = ["<h2>Scores</h2>"]
    if len(groups) > 1:
        parts_.append(
            '<p class="notice">These runs were not all scored on the same images and classes. Each table holds those '
            "that were; values of different tables do not compare.</p>"
        )
    else:
        parts_.append(
            '<p class="lead">In per cent, over all pixels of all validation images together. Several seeds: mean ± '
            "standard deviation. ▲ marks the best value of a column.</p>"
        )
    for group in groups:
        caption = f"Scored on {group.title}" if len(groups) > 1 else ""
        parts_.append(parts.table(tables.scores_table(group.entries), caption))
    return "\n".join(parts_)


def _settings(one, entries):
    if one:
        return f"<h2>Settings</h2>\n{parts.settings(one)}"
    every = parts.table(tables.settings_table(entries, differing=False), kind="words")
    differing = tables.settings_table(entries, differing=True)
    told = (
        parts.table(differing, kind="words") if differing.rows else '<p class="none">The runs differ in no setting.</p>'
    )
    return (
        f'<h2>Settings</h2>\n<p class="lead">Only what differs.</p>\n{told}\n'
        f"<details><summary>All settings</summary>{every}</details>"
    )


def _making(entries):
    blocks = []
    for entry in entries:
        heading = f"<h3>{escape(entry.name)}</h3>" if len(entries) > 1 else ""
        command = f"<pre>{escape(entry.command)}</pre>" if entry.command else ""
        facts = entry.first.facts
        told = [
            facts.get("machine"),
            f"Keras {facts['keras']} on {facts.get('backend')}" if "keras" in facts else None,
            facts.get("precision"),
            f"kseg {facts['kseg']}" if "kseg" in facts else None,
            f"{tables.duration(entry.first.seconds)} of training" if entry.first.seconds else None,
        ]
        line = " · ".join(str(part) for part in told if part)
        missing = "" if entry.command else "This run did not record its command."
        words = " ".join(filter(None, (f"{line}." if line else "", missing)))
        blocks.append(f'{heading}{command}<p class="lead">{escape(words)}</p>')
    return "<h2>How it was made</h2>\n" + "\n".join(blocks)


def _footer(groups):
    lines = []
    for known in dict.fromkeys(group.data_set for group in groups if group.data_set):
        lines.append(" ".join(filter(None, (f"{known.title}: {known.source}; terms: {known.terms}.", known.remark))))
        for one in known.published:
            figures = ", ".join(
                f"{tables.heading(key)} {tables.score(value, key)}" for key, value in one.scores.items()
            )
            lines.append(f"Published: {one.network}, {figures}, on the {one.measured_on} ({one.source}).")
    lines.append(
        f"Written by kseg {__version__}, tools/report.py. Scores are of the network with the highest validation "
        "mean IoU of its run, so they are slightly in its favour."
    )
    return "<footer>" + "".join(f"<p>{escape(line)}</p>" for line in lines) + "</footer>"
