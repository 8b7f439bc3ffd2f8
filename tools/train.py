"""Train a recipe's network on your images."""

import functools
import shlex
import sys
from pathlib import Path

from kseg import cli
from kseg.errors import InputError, need

EXAMPLES = """
python tools/train.py nuclei_unet --data nuclei --out runs/nuclei
python tools/train.py camvid_fcn8s --data DIR --out runs/camvid --set backbone_weights=vgg16.h5 --set epochs=10
python tools/train.py camvid_fcn8s --data DIR --out runs/camvid --resume
python tools/train.py nuclei_unet --data nuclei --out runs/three --seeds 0 1 2
python tools/train.py nuclei_unet --data DIR --out runs/mine --splits 'all[:80%]' 'all[80%:]'
python tools/train.py camvid_fcn8s --data DIR --out runs/camvid --distribute mirrored
KERAS_BACKEND=jax python tools/train.py camvid_fcn8s --data DIR --out runs/camvid --distribute hosts \\
    --coordinator node0:4321 --processes 2 --process 0     (and on the other machine --process 1)
"""


def _arguments(argv):
    parser = cli.parser(__doc__, EXAMPLES)
    parser.add_argument("recipe", help="name of a recipe, such as nuclei_unet: the README lists them")
    parser.add_argument("--data", required=True, help="folder of images and masks, 'nuclei' (bundled) or 'tfds:NAME'")
    parser.add_argument("--out", required=True, type=Path, metavar="RUN", help="folder of this run")
    parser.add_argument(
        "--splits",
        nargs=2,
        metavar=("TRAIN", "VAL"),
        help="default: train val (--resume: those of RUN); parts as in TensorFlow Datasets: 'all[:80%%]' 'all[80%%:]'",
    )
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change a recipe's field")
    parser.add_argument("--resume", action="store_true", help="go on after the last finished epoch of RUN")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="train once with each seed, in RUN/seed_N")
    parser.add_argument("--boundaries", metavar="CLASS", help="also score the regions that this class separates")
    cli.add_skip_bad(parser)
    cli.add_distribution(parser)
    return parser.parse_args(argv)


@cli.command
def main(argv=None):
    """Check the data, train, and evaluate the best network on the validation images."""
    args = _arguments(argv)
    cli.load_keras()
    from kseg import data, training
    from kseg.evaluation.boundaries import check_boundary

    cli.check_output(args.out)
    need("matplotlib", "plots")  # for the charts of a run that is done
    placement = training.place(args.distribute, args.coordinator, args.processes, args.process)
    recipe = training.change(training.find_recipe(args.recipe), args.set)
    if args.seeds and args.distribute == "hosts":
        raise InputError("--seeds does not go with --distribute hosts: start a run for each seed (--set seed=1)")
    runs = training.plan(recipe, args.out, args.seeds, args.resume, args.set, placement.is_chief)
    begun = training.begun(runs, args.recipe)
    splits = args.splits or begun.get("splits", ["train", "val"])
    sources = data.all_checked([data.open_source(args.data, split) for split in splits], args.skip_bad)
    if placement.is_chief and (known := data.shared(*sources)):
        print(f"{known} of the {len(sources[1])} validation images are trained on: scores say little about new images")
    if args.boundaries:
        check_boundary(args.boundaries, sources[1].labels)
    about = {"command": cli.command_line("train", argv), "recipe": args.recipe, "data": args.data, "splits": splits}
    for run in runs:
        if not training.is_trained(run, *sources):  # a run that was killed while it was scored
            training.train(run.recipe, *sources, run.folder, run.resume, about=about, placement=placement)
        if placement.is_chief:
            _score(run.folder, sources[1], splits[1], args.boundaries)
    if placement.is_chief:
        best, pictures = (shlex.quote(str(path)) for path in (runs[-1].folder / "best.keras", args.out / "pictures"))
        print(cli.as_called(f"Report: python tools/report.py {shlex.quote(str(args.out))}"))
        print(cli.as_called(f"Next: python tools/predict.py {best} YOUR_IMAGE --out {pictures}"))
    return 0


def _score(folder, source, split, boundaries):
    from kseg import evaluation, training
    from kseg.evaluation.record import record

    best = training.best_network(folder)
    predictor = evaluation.load_predictor(best)
    show = functools.partial(cli.progress, title="Evaluating", total=len(source.names))
    scores = record(folder, predictor, source, show, boundaries)
    cli.print_scores(scores, f"{best} on {split} ({scores.images} images)")


if __name__ == "__main__":
    sys.exit(main())
