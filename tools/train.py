"""Train a recipe's network on your images."""

import functools
import sys
from pathlib import Path

import kseg
from kseg import cli

EXAMPLES = """
python tools/train.py nuclei_unet --data nuclei --out runs/nuclei
python tools/train.py camvid_fcn8s --data DIR --out runs/camvid --set backbone_weights=vgg16.h5 --set epochs=10
python tools/train.py camvid_fcn8s --data DIR --out runs/camvid --resume
python tools/train.py camvid_fcn8s --data DIR --out runs/camvid --distribute mirrored
KERAS_BACKEND=jax python tools/train.py camvid_fcn8s --data DIR --out runs/camvid --distribute hosts \\
    --coordinator node0:4321 --processes 2 --process 0     (and on the other machine --process 1)
"""


def _arguments(argv):
    parser = cli.parser(__doc__, EXAMPLES)
    parser.add_argument("recipe", help="name of a recipe (kseg/training/recipes.py)")
    parser.add_argument("--data", required=True, help="folder of images and masks, 'nuclei' (bundled) or 'tfds:NAME'")
    parser.add_argument("--out", required=True, type=Path, metavar="RUN", help="folder of this run")
    parser.add_argument(
        "--splits", nargs=2, default=("train", "val"), metavar=("TRAIN", "VAL"), help="default: train val"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the recipe"
    )
    parser.add_argument("--resume", action="store_true", help="go on after the last finished epoch of RUN")
    parser.add_argument("--skip-bad", action="store_true", help="leave out images that the scan finds faulty")
    cli.add_distribution(parser)
    return parser.parse_args(argv)


@cli.command
def main(argv=None):
    """Check the data, train, and evaluate the best network on the validation images."""
    args = _arguments(argv)
    from kseg import data, evaluation, training
    from kseg.evaluation.record import record

    placement = training.place(args.distribute, args.coordinator, args.processes, args.process)
    recipe = training.change(training.find_recipe(args.recipe), args.set)
    if args.resume:
        recipe = training.resume_recipe(args.out, args.set)
    elif placement.is_chief:
        training.check_new_folder(args.out)
    sources = [data.open_source(args.data, split) for split in args.splits]
    train_source, val_source = [_checked(source, args.skip_bad) for source in sources]
    training.train(recipe, train_source, val_source, args.out, resume=args.resume, placement=placement)
    if not placement.is_chief:
        return 0
    predictor = evaluation.load_predictor(args.out / "best.keras")
    show = functools.partial(cli.progress, title="Evaluating", total=len(val_source.names))
    scores = record(args.out, predictor, val_source, show)
    cli.print_scores(scores, f"{args.out / 'best.keras'} on {args.splits[1]} ({scores.images} images)")
    print(f"Report: python tools/report.py {args.out}")
    print(f"Next: python tools/predict.py {args.out / 'best.keras'} YOUR_IMAGE --out {args.out / 'pictures'}")
    return 0


def _checked(source, skip_bad):
    """The source after the scan; without its bad images if the user wants that."""
    report = kseg.data.scan(source)
    if report.inexact_pixels:
        print(f"{report.inexact_pixels} mask pixels had no colour of the label set; the nearest one counts")
    if not report.problems:
        return source
    for file, message in report.problems:
        print(f"{file}: {message}", file=sys.stderr)
    if not skip_bad:
        raise kseg.errors.InputError(
            f"{len(report.problems)} problems in the data; mend them, or leave these images out with --skip-bad"
        )
    kept = kseg.data.without(source, report)
    print(f"Left out {len(source.names) - len(kept.names)} of {len(source.names)} images")
    return kept


if __name__ == "__main__":
    sys.exit(main())
