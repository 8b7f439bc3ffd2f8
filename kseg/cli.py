"""What the command-line tools share: one-line errors, quiet start, one table."""

import argparse
import functools
import importlib
import logging
import os
import re
import shlex
import signal
import sys
import textwrap
import threading
from pathlib import Path

from PIL import Image

from kseg import files
from kseg.errors import CheckError, InputError
from kseg.runtime.chatter import muted


def command(main):
    """Turn `main(argv)` into a tool: returns an exit code, and a user's mistake is one line on stderr.

    0: success. 1: the result did not pass a check. 2: a mistake in what was given. 130: interrupted, by Ctrl-C or
    SIGTERM; temporary files are taken away. 141: what read its output has ended. Any other exception is a fault of kseg
    and keeps its traceback.
    """

    @functools.wraps(main)
    def run(argv=None):
        # Before TensorFlow is imported: its notes would bury what the tool says. Level 2 still lets through what it
        # calls errors and lives with (oneDNN without int32, CUDA libraries found twice); true ones are exceptions.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        # TensorFlow leaves oneDNN out on processors without AVX-512; with it, a U-Net trains 1.4 times as fast on AVX2.
        # Its sums may differ in their last bits from run to run; who wants the same bits sets this to 0.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        # Pillow's limit of 179 megapixels guards servers; these are the user's own files, and windows bound the memory.
        Image.MAX_IMAGE_PIXELS = None
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a terminal that cannot show a class's name must not cost the results
                stream.reconfigure(errors="replace")
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            return main(argv) or 0
        except (InputError, ImportError, PermissionError) as error:
            if isinstance(error, ImportError) and "kseg[" not in str(error):
                raise
            print(as_called(f"error: {error}"), file=sys.stderr)
            return 2
        except CheckError as error:
            print(f"failed: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            if argv is None:
                # A process of its own. Python's end, with TensorFlow loaded, hung after 4 of 32 interrupts.
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(130)
            return 130
        except BrokenPipeError:  # of `| head`, which has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
            return 141  # as a shell counts SIGPIPE; a training that ends so has not succeeded

    return run


def command_line(tool, argv=None):
    """The command that started tools/`tool`.py, with the arguments `argv`, or those of this process if None.

    Keras's backend is part of it where the environment names one.
    """
    backend = [f"KERAS_BACKEND={name}"] if (name := os.environ.get("KERAS_BACKEND")) else []
    arguments = shlex.join(sys.argv[1:] if argv is None else argv)
    return " ".join([*backend, as_called(f"python tools/{tool}.py"), arguments]).strip()


def as_called(text):
    """`text` with the tools named as this process was started: `python tools/train.py`, or `kseg train`."""
    return re.sub(r"python tools/(\w+)\.py", r"kseg \1", text) if sys.argv[0].startswith("kseg ") else text


def load_keras():
    """Import Keras and its backend without what these print: TensorFlow's notes come at any log level."""
    logging.getLogger("tensorflow").addFilter(_is_no_retracing)
    try:
        with muted():
            importlib.import_module("keras")
    except (ImportError, ValueError) as error:  # no backend, or a KERAS_BACKEND that there is not
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"Keras found no backend ({reason}): in kseg's folder, pip install '.[cpu]'; or set KERAS_BACKEND"
        ) from error


def _is_no_retracing(record):
    """Images of several sizes make TensorFlow trace several times, which it counts over all models together."""
    return "triggered tf.function retracing" not in record.getMessage()


def parser(description, examples):
    """An ArgumentParser that shows examples and defaults as they are written."""
    return argparse.ArgumentParser(
        description=description,
        epilog="examples:\n" + textwrap.indent(as_called(textwrap.dedent(examples).strip()), "  "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_skip_bad(parser):
    """The option to go on without the images that cannot be used."""
    parser.add_argument("--skip-bad", action="store_true", help="leave out images that the scan finds faulty")


def add_prediction(parser):
    """The options that say how images go through a network."""
    parser.add_argument("--threads", type=int, help="threads of the interpreter")
    parser.add_argument("--window", type=_size, metavar="PX", help="see each image in windows: 512, or HEIGHTxWIDTH")
    parser.add_argument("--overlap", type=int, metavar="PX", help="of windows, blended; default: a quarter of them")
    parser.add_argument(
        "--flips", choices=("none", "horizontal", "all"), default="none", help="average over these, too"
    )
    parser.add_argument(
        "--scales", type=_factors, default=(1.0,), metavar="F,F", help="average over these: 0.75,1,1.25"
    )


def prediction(args):
    """The parsed options of `add_prediction` -> arguments of `kseg.evaluation.load_predictor`."""
    names = {"threads": "threads", "window_px": "window", "overlap_px": "overlap", "flips": "flips", "scales": "scales"}
    return {name: getattr(args, option) for name, option in names.items()}


def plain_name(text):
    """The type of an argument that names a file in a folder that another argument gives."""
    if not text or Path(text).name != text or text == "..":
        raise argparse.ArgumentTypeError(f"must be a name without folders. Received: {text}")
    return text


def _size(text):
    try:
        sides = tuple(int(side) for side in text.split("x"))
    except ValueError:
        sides = ()
    if len(sides) not in (1, 2):
        raise argparse.ArgumentTypeError(f"must be pixels, 512 or HEIGHTxWIDTH. Received: {text}")
    return sides * (3 - len(sides))


def _factors(text):
    try:
        return tuple(float(factor) for factor in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers with commas, 0.75,1,1.25. Received: {text}") from None


def add_distribution(parser):
    """Add the arguments of `kseg.training.place`, and what SLURM does for them."""
    group = parser.add_argument_group("several devices or machines")
    group.add_argument(
        "--distribute",
        choices=("mirrored", "hosts"),
        help="mirrored: over all devices of this machine (TensorFlow or JAX); hosts: over the devices of several "
        "processes (KERAS_BACKEND=jax), each started with the same command. The recipe's batch is divided over them",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="hosts: where process 0 listens")
    group.add_argument("--processes", type=int, metavar="N", help="hosts: number of processes")
    group.add_argument("--process", type=int, metavar="I", help="hosts: index of this process, 0 .. N - 1")
    parser.epilog += as_called(_SLURM)


_SLURM = """

SLURM: srun tells the processes their places, so --coordinator, --processes and --process can be left out:
  #SBATCH --nodes=4 --ntasks-per-node=1 --gpus-per-node=8
  KERAS_BACKEND=jax srun python tools/train.py RECIPE --data DIR --out RUN --distribute hosts
DIR and RUN must be seen by all machines; process 0 alone writes. If a process is lost, the others stop with an
error within a minute; start all again with --resume."""


def print_scores(scores, title):
    """Print a table of IoU per class and the means on the terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    print(title)
    table = Table()
    table.add_column("class")
    table.add_column("IoU", justify="right")
    for name, value in scores.iou.items():
        table.add_row(escape(name), "absent" if value is None else f"{value:.4f}")
    table.add_section()
    for name in ("mean_iou", "mean_dice", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou"):
        table.add_row(name.replace("_", " "), f"{getattr(scores, name):.4f}")
    Console().print(table)


def print_classes(labels, reports):
    """Print how much of each split is of each class, and in how many of its images.

    Args:
        labels: LabelSet.
        reports: split -> ScanReport.
    """
    headings = ["class", "colour"]
    named = enumerate(zip(labels.names, labels.colours, strict=True))
    rows = [[f"{index} {name}", "#{:02x}{:02x}{:02x}".format(*colour)] for index, (name, colour) in named]
    rows.append([f"{labels.ignore} not labelled", ""])
    for split, report in reports.items():
        headings += [f"{split}: pixels", f"of {report.samples} images"]
        counts = [*report.class_pixels, report.ignored_pixels]
        for row, pixels, images in zip(rows, counts, [*report.class_images, ""], strict=True):
            row += [f"{pixels / max(1, sum(counts)):.2%}", str(images)]
    print_table(headings, rows if labels.ignore is not None else rows[:-1])
    for split, report in reports.items():
        if report.inexact_pixels:
            share = report.inexact_pixels / (sum(report.class_pixels) + report.ignored_pixels)
            print(f"{split}: {share:.2%} of the pixels have the colour of no class; the nearest counts", end="")
            print(". Do labels.json and masks belong together?" if share > 0.2 else "")


def print_boundaries(scores, boundary):
    """Print a BoundaryScores: a row a threshold, and the best of each column."""
    print(f"Regions between {boundary}, by the threshold of its probability")
    columns = zip(scores.thresholds, *(getattr(scores, name) for name in scores.best), strict=True)
    rows = [(f"{threshold:g}", *(f"{value:.4f}" for value in values)) for threshold, *values in columns]
    best = ("best", *(f"{value:.4f}" for value in scores.best.values()))
    print_table(("threshold", "pixel error", "1 - F-score", "V_rand", "V_info"), [*rows, best])


def print_table(headings, rows):
    """Print a table on the terminal: the first column to the left, numbers to the right."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)


def progress(items, title, total=None):
    """Iterate with a progress bar on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(items, title, total=total, console=console, disable=not console.is_terminal)


def check_file(path):
    """For a file that is to be written after long work: raise InputError now if that cannot be."""
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"{path}: its folder does not exist")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; a file is to be written")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path}: its folder is read-only")


def check_images(images):
    """Raise InputError if the number of images that the user wants to be looked at is not positive."""
    if images < 1:
        raise InputError(f"--images must be at least 1. Received: {images}")


def check_output(folder):
    """Before long work: raise InputError if files cannot be written to `folder`, which may be missing."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists() or path.is_symlink())
    if there.is_symlink() and not there.exists():
        raise InputError(f"{folder}: cannot be written to: {there} is a link to nothing")
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise InputError(f"{folder}: cannot be written to: {there} is {'read-only' if there.is_dir() else 'a file'}")


def check_apart(outputs, inputs):
    """Raise InputError if a file that is to be written is one of those that are read (paths)."""
    given = {Path(path).resolve() for path in inputs}
    if both := [str(path) for path in outputs if Path(path).resolve() in given]:
        raise InputError(f"{', '.join(both[:5])}: would be overwritten by a result; choose another folder")


def write_json(value, path):
    """Write `value` as JSON in one step.

    Raises:
        InputError: the folder does not exist or the disk is full.
    """
    check_file(path)
    files.write_json(value, path)
