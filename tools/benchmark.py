"""Time network files side by side: .tflite and .onnx made by anyone, and .keras."""

import sys
from dataclasses import replace
from pathlib import Path

from kseg import cli
from kseg.runtime.chatter import muted

EXAMPLES = """
python tools/benchmark.py unet_int8.tflite unet.onnx
python tools/benchmark.py best.keras unet.tflite --size 256 256 --threads 1 --json times.json
python tools/benchmark.py unet_int8.tflite --per-op
"""


def _arguments(argv):
    parser = cli.parser(__doc__, EXAMPLES)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="the others are compared with the first")
    parser.add_argument("--threads", type=int, help="of the interpreter; default: one a core")
    parser.add_argument("--runs", type=int, default=50, help="of each file, in turn; default: 50")
    parser.add_argument("--warmup", type=int, default=3, help="runs that do not count; default: 3")
    parser.add_argument("--seconds", type=float, default=60, help="stop earlier, after these; default: 60")
    parser.add_argument("--size", nargs=2, type=int, metavar=("H", "W"), help="for .keras and files for any size")
    parser.add_argument("--per-op", action="store_true", help="also the time of each operator")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    return parser.parse_args(argv)


@cli.command
def main(argv=None):
    """Time the files, print the tables, and write what was asked for."""
    args = _arguments(argv)
    from kseg.evaluation import benchmark, tables

    def tell(text):
        print(text, file=sys.stderr, flush=True)

    if args.json:
        cli.check_file(args.json)
    size_px = tuple(args.size) if args.size else None
    settings = benchmark.Settings(args.threads, args.runs, args.warmup, args.seconds, size_px)
    if args.per_op:
        for path in args.files:
            benchmark.check_per_operator(path)
    measured = benchmark.measure(args.files, settings, tell)
    measured = [replace(one, fully_accelerated=_accelerated(one.file)) for one in measured]
    for number, one in enumerate(measured, start=1):
        print(f"[{number}] {tables.describe(one)}")
    cli.print_table(*tables.times(measured))
    operators = [benchmark.per_operator(path, settings, tell) for path in args.files] if args.per_op else []
    for one in operators:
        print(tables.describe_operators(one))
        cli.print_table(*tables.operators(one))
        cli.print_table(*tables.groups(one))
    if args.json:
        content = {"environment": benchmark.environment(settings), "files": [one.to_dict() for one in measured]}
        cli.write_json({**content, "operators": [one.to_dict() for one in operators]}, args.json)
    return 0


def _accelerated(path):
    """Whether one delegate takes the whole network; None: not known, not even asked where kseg.export cannot run."""
    if Path(path).suffix != ".tflite":
        return None
    try:
        with muted():
            from kseg.export.inspect import fully_accelerated
    except ImportError:
        return None
    return fully_accelerated(path)


if __name__ == "__main__":
    sys.exit(main())
