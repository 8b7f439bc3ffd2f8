"""What scoring costs beside the forward pass, and how often a network is traced for images of equal and other sizes.

Image after image goes through the network and the two ways to score it. Times are those of the processor, all threads
together, which hold on a busy machine; on an idle one of n cores NumPy's, in one thread, weigh up to n times as much:

- forward: the network alone, scores out;
- NumPy: the check that all scores are finite, and the argmax, on these scores;
- compiled: the layer that does both in the compiled call of `KerasPredictor.indices`, run alone on these scores, less
  what it takes to hand them over;
- matrix: the confusion matrix.

"share" is (check and argmax + matrix) / forward, the median over the rounds. "traces" are those of the compiled call
after images of one size, and after four other sizes. The weights are random, and no data is needed.
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
    "NumPy, ms",
    "compiled, ms",
    "matrix, ms",
    "NumPy share",
    "compiled share",
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
    """Time the networks; print one table in Markdown."""
    args = _arguments(argv)
    from kseg.evaluation import KerasPredictor
    from kseg.labels import LabelSet

    print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}")
    for name in args.only:
        for classes in CLASSES:
            predictor = KerasPredictor(_networks()[name](classes), LabelSet.numbered(classes))
            cells = (name, str(classes), *_row(predictor, tuple(args.size), args.rounds))
            print(f"| {' | '.join(cells)} |", flush=True)
    return 0


def _row(predictor, size_px, rounds):
    """The cells of one network after its name."""
    import keras

    classes = len(predictor.labels)
    inputs = keras.Input((None, None, classes))
    layer, bare = keras.Model(inputs, predictor._labeller.layers[-1](inputs)), keras.Model(inputs, inputs[:, :1, :1])
    layer.jit_compile = bare.jit_compile = False
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (1, *size_px, 3)).astype(np.uint8)
    truth = generator.integers(0, classes, (1, *size_px))
    times = [_round(predictor, layer, bare, image, truth) for _ in range(rounds + 2)]
    forward, plain, handed_over, compiled, matrix = np.array(times[2:]).T  # [step, round]
    compiled -= handed_over
    for _ in range(3):
        predictor.indices(image)
    traces = [_traces(predictor)]
    for more in range(1, 5):
        predictor.indices(image[:, : size_px[0] - 8 * more, : size_px[1] - 5 * more])
    traces.append(_traces(predictor))
    return (
        *(f"{1e3 * np.median(step):.1f}" for step in (forward, plain, compiled, matrix)),
        *(f"{np.median((step + matrix) / forward):.1%}" for step in (plain, compiled)),
        ", ".join(map(str, traces)),
    )


def _round(predictor, layer, bare, image, truth):
    """Processor seconds: forward; check and argmax in NumPy; handing scores over; that and both compiled; matrix."""
    from kseg.metrics import confusion_matrix
    from kseg.runtime.windows import finite

    marks = [time.process_time()]
    scores = predictor(image)
    marks.append(time.process_time())
    finite(scores).argmax(-1)
    marks.append(time.process_time())
    bare.predict_on_batch(scores)
    marks.append(time.process_time())
    classes, _ = layer.predict_on_batch(scores)
    marks.append(time.process_time())
    confusion_matrix(truth, np.asarray(classes), len(predictor.labels))
    marks.append(time.process_time())
    return np.diff(marks)


def _traces(predictor):
    return predictor._labeller.predict_function.experimental_get_tracing_count()


if __name__ == "__main__":
    sys.exit(main())
