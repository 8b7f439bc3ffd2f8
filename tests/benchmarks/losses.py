"""What each loss costs: its value and its gradient for the scores of one batch, in turns.

The scores are those of a network that is sure and mostly right: random patches of classes, a tenth of the pixels wrong.
"lovasz_sorted" is algorithm 1 of Berman et al. 2018 as it is written there, to compare `lovasz_softmax` with. The Keras
backend is that of KERAS_BACKEND.
"""

import sys
import time

import numpy as np

from kseg import cli

EXAMPLES = """
python tests/benchmarks/losses.py
KERAS_BACKEND=jax python tests/benchmarks/losses.py --batch 4 --classes 21
"""
IGNORE = 255


def _arguments(argv):
    parser = cli.parser(__doc__, EXAMPLES)
    parser.add_argument("--batch", type=int, default=8, help="default: 8")
    parser.add_argument("--size", nargs=2, type=int, default=(320, 320), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--classes", type=int, default=11, help="default: 11")
    parser.add_argument("--rounds", type=int, default=7, help="that count; default: 7")
    return parser.parse_args(argv)


@cli.command
def main(argv=None):
    """Time the losses; print one table in Markdown."""
    args = _arguments(argv)
    from keras import ops

    from kseg import losses

    functions = (losses.cross_entropy, losses.hard_pixels, losses.soft_dice, losses.lovasz_softmax, lovasz_sorted)
    labels, scores = map(ops.convert_to_tensor, _batch((args.batch, *args.size), args.classes))
    steps = {function.__name__: _compiled(function, labels, scores) for function in functions}
    values, times = {}, {name: [] for name in steps}
    for _ in range(args.rounds + 1):  # the first compiles
        for name, step in steps.items():
            start = time.perf_counter()
            value, gradient = step(scores)
            np.asarray(gradient)
            times[name].append(time.perf_counter() - start)
            values[name] = float(value)
    middle = {name: np.median(seconds[1:]) for name, seconds in times.items()}
    print("| loss | ms | of cross_entropy | value |\n|---|---|---|---|")
    for name, seconds in middle.items():
        ratio = seconds / middle["cross_entropy"]
        print(f"| {name} | {1e3 * seconds:.0f} | {ratio:.1f} | {values[name]:.6f} |", flush=True)
    return 0


def _batch(shape, classes, patch_px=16):
    generator = np.random.default_rng(0)
    height, width = (-(-edge // patch_px) for edge in shape[1:])
    labels = generator.integers(0, classes, (shape[0], height, width), "int32")
    labels = labels.repeat(patch_px, 1).repeat(patch_px, 2)[:, : shape[1], : shape[2]]
    scores = generator.normal(scale=3, size=(*shape, classes)).astype("float32")
    told = np.where(generator.random(shape) < 0.9, labels, -1)  # the others are left to chance
    scores += 8 * (told[..., None] == np.arange(classes))
    labels[generator.random(shape) < 0.05] = IGNORE
    return labels, scores


def lovasz_sorted(labels, logits, ignore):
    """`kseg.losses.lovasz_softmax`, by sorting all pixels once a class."""
    from keras import ops

    classes = logits.shape[-1]
    labels = ops.reshape(labels, (-1,))
    valid = ops.cast(labels != ignore, "float32")
    probabilities = ops.transpose(ops.reshape(ops.softmax(logits), (-1, classes)))  # [C, P]
    true = ops.cast(labels[None] == ops.arange(classes, dtype="int32")[:, None], "float32")
    errors = ops.absolute(true - probabilities) * valid
    order = ops.argsort(-ops.stop_gradient(errors), axis=-1)
    true = ops.take_along_axis(true, order, axis=-1)
    size = ops.sum(true, axis=-1, keepdims=True)
    union = size + ops.cumsum((1.0 - true) * ops.take(valid, order), axis=-1)
    jaccard = 1.0 - (size - ops.cumsum(true, axis=-1)) / ops.maximum(union, 1.0)
    slopes = ops.concatenate([jaccard[:, :1], jaccard[:, 1:] - jaccard[:, :-1]], axis=-1)
    by_class = ops.sum(ops.take_along_axis(errors, order, axis=-1) * ops.stop_gradient(slopes), axis=-1)
    present = ops.cast(size[:, 0] > 0, "float32")
    return ops.sum(by_class * present) / ops.sum(present)


def _compiled(function, labels, scores):
    """scores -> (value, gradient), compiled for the backend."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(jax.value_and_grad(lambda scores: function(labels, scores, IGNORE)))
    import tensorflow as tf

    def step(scores):
        with tf.GradientTape() as tape:
            tape.watch(scores)
            value = function(labels, scores, IGNORE)
        return value, tape.gradient(value, scores)

    return tf.function(step).get_concrete_function(scores)


if __name__ == "__main__":
    sys.exit(main())
