"""Show runs: one HTML page for a run or a comparison of several, or the Markdown page of results."""

import shlex
import sys
from pathlib import Path

from kseg import cli

EXAMPLES = """
python tools/report.py runs/nuclei
python tools/report.py runs/fcn32s runs/fcn16s runs/fcn8s --out comparison.html
python tools/report.py runs/a runs/b runs/c --markdown exported/RESULTS.md --pictures nuclei camvid
"""


def _arguments(argv):
    parser = cli.parser(__doc__, EXAMPLES)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, or of one run's seeds")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="HTML page; default: RUN/report.html, report.html for several runs"
    )
    parser.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="write a Markdown page instead; in results/ beside it are charts and the runs' small files, from which "
        "the page can be made again",
    )
    parser.add_argument(
        "--pictures", nargs="+", default=[], metavar="DATA", help="data sets whose images the Markdown page may show"
    )
    parser.add_argument("--notes", type=Path, metavar="FILE", help="Markdown that the page of results begins with")
    return parser.parse_args(argv)


@cli.command
def main(argv=None):
    """Read the runs and write the page."""
    args = _arguments(argv)
    from kseg.errors import InputError
    from kseg.evaluation import report
    from kseg.files import read_text

    page = args.markdown or args.out or (args.runs[0] / "report.html" if len(args.runs) == 1 else Path("report.html"))
    entries = report.read_entries(args.runs)
    cli.check_file(page)
    if page.suffix not in ((".md",) if args.markdown else (".html", ".htm")):
        raise InputError(f"{page}: a page is a .html file, with --markdown a .md file")
    if args.markdown and args.out:
        raise InputError("--out and --markdown are two pages: make them one after the other")
    if args.markdown:
        cli.check_output(page.parent / "results")
        notes = read_text(args.notes) if args.notes else ""
        report.write_markdown(entries, page, args.pictures, _command(args, entries), notes)
    else:
        report.write_html(entries, page)
    unfinished = [f"{entry.name}: {entry.state()}" for entry in entries if entry.state()]
    print("\n".join([f"{page}: {len(entries)} run{'s' if len(entries) > 1 else ''}", *unfinished]))
    return 0


def _command(args, entries):
    """The command that makes this page again from what is kept beside it, with nothing of this machine in it."""
    from kseg.evaluation.report.kept import kept_entry

    page = Path(args.markdown.name) if args.markdown.is_absolute() else args.markdown
    runs = [str(kept_entry(entry, page.parent / "results" / "runs")) for entry in entries]
    words = ["python", "tools/report.py", *runs, "--markdown", str(page)]
    words += ["--pictures", *args.pictures] if args.pictures else []
    words += ["--notes", args.notes.name if args.notes.is_absolute() else str(args.notes)] if args.notes else []
    return cli.as_called(shlex.join(words))


if __name__ == "__main__":
    sys.exit(main())
