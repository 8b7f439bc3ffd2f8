"""Does every kind of file say what its Keras model says? Measured on labelled images, one export per line of a table.

Each format x precision x output is exported with its usual input. The first output is also exported with the other
input dtype, and as a file for images of any size, which is compared at each image's own size.

Columns: errors are those of the file's outputs (scores, or 0 and 1 for labels) against Keras; "agreement" is the part
of the pixels with the same class at the network's size; mean IoUs are those of Keras and of the file at the images'
own size; seconds are of the whole export and, in brackets, of the conversion alone. A file that cannot be made or
does not pass its check is a line with the reason, and the exit code is then 1.
"""

import math
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from kseg import cli

EXAMPLES = """
python tests/benchmarks/parity.py runs/nuclei/best.keras --data nuclei --size 256 256 --out parity.md
python tests/benchmarks/parity.py best.keras --data DIR --size 360 480 --images 24 \\
    --precisions float32 float16 dynamic int8
python tests/benchmarks/parity.py best.keras --data DIR --precisions int16x8 --outputs logits --slow-images 1 \\
    --no-variants
"""
FORMATS = ("tflite", "onnx")
PRECISIONS = ("float32", "float16", "dynamic", "int8", "int16x8")
OUTPUTS = ("logits", "probabilities", "labels")
# LiteRT has no fast kernels for it on a CPU: a network takes 40 to 400 times as long as in float32.
SLOW = "int16x8"
HEADINGS = (
    "format",
    "precision",
    "output",
    "input",
    "size",
    "images",
    "max abs error",
    "relative rms error",
    "agreement",
    "mean IoU, Keras",
    "mean IoU, file",
    "file, MB",
    "seconds",
    "result",
)


@dataclass(frozen=True)
class Kind:
    """One file to measure; `input_dtype` None is the usual one."""

    format: str
    precision: str
    output: str
    input_dtype: str | None = None
    resizable: bool = False

    def __str__(self):
        size = "any size" if self.resizable else ""
        return " ".join(filter(None, (self.format, self.precision, self.output, self.input_dtype, size)))


def _arguments(argv):
    parser = cli.parser(__doc__, EXAMPLES)
    parser.add_argument("model", type=Path, metavar="MODEL.keras")
    parser.add_argument("--data", required=True, help="folder of images and masks, 'nuclei' (bundled) or 'tfds:NAME'")
    parser.add_argument("--split", default="val", help="default: val")
    parser.add_argument("--calibrate", metavar="DATA", help="images for int8 and int16x8; default: as --data")
    parser.add_argument("--calibrate-split", default="train", metavar="SPLIT", help="default: train")
    parser.add_argument("--calibration-images", type=int, default=32, metavar="N", help="default: 32")
    parser.add_argument("--size", nargs=2, type=int, metavar=("H", "W"), help="default: that of the first image")
    parser.add_argument("--images", type=int, default=32, metavar="N", help="compare on at most so many; default: 32")
    parser.add_argument(
        "--slow-images", type=int, default=2, metavar="N", help=f"the same for {SLOW}, slow on a CPU; default: 2"
    )
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--outputs", nargs="+", choices=OUTPUTS, default=OUTPUTS)
    parser.add_argument("--no-variants", action="store_true", help="without the other input dtype and any size")
    parser.add_argument("--out", type=Path, metavar="TABLE.md", help="write the table here, too")
    return parser.parse_args(argv)


@cli.command
def main(argv=None):
    """Export and measure one kind after the other; 1 if one of them failed."""
    args = _arguments(argv)
    from kseg import data, export, training

    if args.out:
        cli.check_file(args.out)
    model, labels = training.load_model(args.model)
    source = data.open_source(args.data, args.split)
    pairs = {count: data.spread(source, count) for count in {args.images, args.slow_images}}
    if source.labels.names != labels.names:  # of other classes, they would give a mean IoU without meaning
        pairs = {count: [(image, None) for image, _ in some] for count, some in pairs.items()}
    own_size_px = model.input_shape[1:3]
    size_px = pairs[args.images][0][0].shape[:2] if None in own_size_px else own_size_px
    needs_calibration = any(precision.startswith("int") for precision in args.precisions)
    chosen = (args.calibrate or args.data, args.calibrate_split, args.calibration_images)
    calibration = export.calibrate(*chosen) if needs_calibration else None
    table = _Table(args.out)
    kinds = _kinds(args, export.PRECISIONS)
    for place, kind in enumerate(kinds, 1):
        print(f"[{place}/{len(kinds)}] {kind} ...", file=sys.stderr, flush=True)
        verification = pairs[args.slow_images if kind.precision == SLOW else args.images]
        options = {
            "size_px": tuple(args.size or size_px),
            "calibration": calibration,
            "verification": verification,
            "verification_data": f"{args.data} {args.split}",
        }
        table.add(*_measured(kind, model, labels, options))
    print(f"{len(kinds) - table.failed} of {len(kinds)} files passed their check", file=sys.stderr)
    return 1 if table.failed else 0


def _kinds(args, precisions):
    """Every Kind that was asked for and that its format knows, in the order of the table."""
    kinds = []
    for format in args.formats:
        for precision in (name for name in args.precisions if name in precisions[format]):
            usual = "uint8" if (format, precision) == ("tflite", "int8") else "float32"
            other = "float32" if usual == "uint8" else "uint8"
            kinds += [Kind(format, precision, output, usual) for output in args.outputs]
            if not args.no_variants:
                kinds.append(Kind(format, precision, args.outputs[0], other))
                kinds.append(Kind(format, precision, args.outputs[0], usual, resizable=True))
    return kinds


def _measured(kind, model, labels, options):
    """Export one file and throw it away; return (the cells of its line, whether it passed)."""
    from kseg import export
    from kseg.errors import CheckError, InputError

    start, size_px = time.perf_counter(), options["size_px"]
    size = "any" if kind.resizable else f"{size_px[0]}x{size_px[1]}"
    named = [kind.format, kind.precision, kind.output, kind.input_dtype, size, str(len(options["verification"]))]
    with tempfile.TemporaryDirectory(prefix="parity-") as folder:
        path = Path(folder, f"net.{kind.format}")
        try:
            card = export.export(model, labels, path, **vars(kind), **options)
        except Exception as error:  # the other files are still to be measured
            if not isinstance(error, (CheckError, InputError)):
                traceback.print_exc()
            reason = " ".join(f"{type(error).__name__}: {error}".split()).replace("|", "\\|")
            return [*named, *["-"] * 6, f"{time.perf_counter() - start:.0f}", reason], False
        size_bytes = sum(file.stat().st_size for file in Path(folder).iterdir() if file.suffix != ".json")
    seconds = f"{time.perf_counter() - start:.0f} ({card.conversion['seconds']:.0f})"
    parity = card.parity
    figures = [
        f"{parity['max_abs_error']:.2g}",
        f"{parity['relative_rms_error']:.2g}",
        _floored(parity["argmax_agreement"]),
        _rounded(parity["mean_iou_keras"]),
        _rounded(parity["mean_iou_file"]),
    ]
    named[2] = card.output["kind"]  # a model that ends in a softmax gives probabilities, whatever was asked for
    return [*named, *figures, f"{size_bytes / 1e6:.2f}", seconds, "passed"], True


def _floored(part):
    """Five decimals, rounded down: 1.00000 means that every pixel agrees."""
    return f"{math.floor(part * 1e5) / 1e5:.5f}"


def _rounded(value):
    return "-" if value is None else f"{value:.4f}"


class _Table:
    """Prints each line as soon as it is known, so that an interrupted run has not been for nothing."""

    def __init__(self, path):
        self._path, self._lines, self.failed = path, [], 0
        self._write("| " + " | ".join(HEADINGS) + " |")
        self._write("|" + "---|" * len(HEADINGS))

    def add(self, cells, passed):
        self.failed += not passed
        self._write("| " + " | ".join(cells) + " |")

    def _write(self, line):
        print(line, flush=True)
        self._lines.append(line + "\n")
        if self._path:
            self._path.write_text("".join(self._lines))


if __name__ == "__main__":
    sys.exit(main())
