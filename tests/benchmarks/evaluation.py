"""What scoring costs beside the forward pass, and how often a network is traced for images of equal and other sizes.

One image after another goes through the three ways to score it, so that their ratios hold on a busy machine:

- forward: the network alone, scores out;
- NumPy: the check that all scores are finite, the argmax and the confusion matrix on these scores;
- compiled: `KerasPredictor.indices`, which has check and argmax in the compiled call, then the confusion matrix.

"NumPy share" is the time of NumPy's part / forward. "compiled share" is (compiled - forward) / forward, which on a
busy machine is noise of either sign around a small number, and "matrix share" the confusion matrix / forward: each the
median over the rounds. "traces" are those of the compiled call after images of one size, and after four sizes more.
Weights are random: they do not change the work. No data is needed.
"""

import sys
import time

import numpy as np

from kseg import cli

EXAMPLES = """
python tests/benchmarks/evaluation.py
python tests/benchmarks/evaluation.py --only fcn8s --size 720 960 --rounds 10
"""
CLASSES = (11, 21)
HEADINGS = (
    "network",
    "classes",
    "forward, ms",
    "check, ms",
    "argmax, ms",
    "matrix, ms",
    "NumPy share",
    "compiled share",
    "matrix share",
    "traces",
)


def _networks():
    from kseg.applications import FCN8s, UNet

    return {
        "unet": lambda classes: UNet(filters=16, classes=classes, batch_normalization=True),
        "fcn8s": lambda classes: FCN8s(fc_units=256, classes=classes),
    }


def _arguments(argv):
    parser = cli.parser(__doc__, EXAMPLES)
    names = ("unet", "fcn8s")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="default: both")
    parser.add_argument("--size", nargs=2, type=int, default=(360, 480), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=int, default=20, help="images that count; default: 20")
    return parser.parse_args(argv)


@cli.command
def main(argv=None):
    """Time the networks; print one table."""
    args = _arguments(argv)
    from kseg.evaluation import KerasPredictor
    from kseg.labels import LabelSet

    rows = []
    for name in args.only:
        for classes in CLASSES:
            print(f"{name}, {classes} classes", file=sys.stderr)
            predictor = KerasPredictor(_networks()[name](classes), LabelSet.numbered(classes))
            rows.append((name, str(classes), *_row(predictor, tuple(args.size), args.rounds)))
    cli.print_table(HEADINGS, rows)
    return 0


def _row(predictor, size_px, rounds):
    """The cells of one network after its name."""
    classes = len(predictor.labels)
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (1, *size_px, 3)).astype(np.uint8)
    truth = generator.integers(0, classes, (1, *size_px))
    for _ in range(2):
        _round(predictor, image, truth)
    traces = [_traces(predictor)]
    times = np.array([_round(predictor, image, truth) for _ in range(rounds)])  # [round, step]
    traces.append(_traces(predictor))
    for more in range(1, 5):
        predictor.indices(image[:, : size_px[0] - 8 * more, : size_px[1] - 5 * more])
    forward, check, argmax, matrix, compiled = times.T
    shares = ((check + argmax + matrix) / forward, (compiled + matrix - forward) / forward, matrix / forward)
    return (
        *(f"{1e3 * np.median(step):.1f}" for step in (forward, check, argmax, matrix)),
        *(f"{np.median(share):.1%}" for share in shares),
        f"{max(traces)}, {_traces(predictor)}",
    )


def _round(predictor, image, truth):
    """Seconds of: forward, check, argmax, confusion matrix, and of the compiled classes."""
    from kseg.metrics import confusion_matrix
    from kseg.runtime.windows import finite

    marks = [time.perf_counter()]
    scores = predictor(image)
    marks.append(time.perf_counter())
    finite(scores)
    marks.append(time.perf_counter())
    classes = scores.argmax(-1)
    marks.append(time.perf_counter())
    confusion_matrix(truth, classes, len(predictor.labels))
    marks.append(time.perf_counter())
    predictor.indices(image)
    marks.append(time.perf_counter())
    return np.diff(marks)


def _traces(predictor):
    return predictor._labeller.predict_function.experimental_get_tracing_count()


if __name__ == "__main__":
    sys.exit(main())
