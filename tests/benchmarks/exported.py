"""Write a table of exported/README.md from the cards that lie beside it and the times of tools/benchmark.py.

    python tests/benchmarks/exported.py runs/exported/times.json exported/README.md nuclei

`make exported` runs it.
"""

import json
import os
import platform
import re
import sys
from pathlib import Path

from kseg.runtime import Card

HEADINGS = ("file", "MB", "mean IoU, Keras", "mean IoU, file", "same class", "median, ms", "p90, ms")


def main(times, readme, section):
    """Put the table between the lines `<!-- SECTION -->` and `<!-- /SECTION -->`."""
    times, readme = json.loads(Path(times).read_text()), Path(readme)
    rows = [[*row(readme.with_name(Path(one["file"]).name)), *latency(one)] for one in times["files"]]
    replace_section(readme, section, f"{table(HEADINGS, rows)}\n\n{conditions(times)}")


def row(path):
    """What the card of the exported file `path` says, as cells."""
    path, parity = Path(path), Card.load(path).parity
    return [
        f"[{path.name}]({path.name})",
        f"{path.stat().st_size / 1e6:.2f}",
        f"{parity['mean_iou_keras']:.4f}",
        f"{parity['mean_iou_file']:.4f}",
        f"{100 * parity['argmax_agreement']:.2f} %",
    ]


def latency(measured):
    """One file's entry of benchmark.py's JSON, as cells."""
    return [f"{measured['median_ms']:.1f}", f"{measured['p90_ms']:.1f}"]


def conditions(times):
    """One sentence: on what the times were taken, and, just afterwards, how many processes wanted its cores."""
    environment = times["environment"]
    versions = ", ".join(f"{name} {environment['versions'][name]}" for name in ("ai-edge-litert", "onnxruntime"))
    rounds, threads = times["files"][0]["runs"], environment["settings"]["threads"]
    load = f"load average {os.getloadavg()[0]:.0f} on {environment['cores']} cores"
    return f"Times: {threads} threads of {_processor()}, the files in turn, {rounds} rounds; {load}; {versions}."


def table(headings, rows):
    """A Markdown table: the first column to the left, numbers to the right."""
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def replace_section(path, name, text):
    """Replace what stands between the lines `<!-- name -->` and `<!-- /name -->` of a Markdown file."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    content = path.read_text(encoding="utf-8")
    if content.count(begin) != 1 or content.count(end) != 1:
        raise SystemExit(f"{path}: needs one line {begin.strip()} and one line {end}")
    before, rest = content.split(begin)
    path.write_text(f"{before}{begin}{text}\n{end}{rest.split(end)[1]}", encoding="utf-8")


def _processor():
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()


if __name__ == "__main__":
    main(*sys.argv[1:])
