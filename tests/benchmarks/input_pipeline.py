"""How fast the input pipeline is, against bare decoding and against albumentations, and whether training waits for it.

Images per second of CPU time, which holds on a machine that others use, too; the variants run in turn, and the ratios
are medians over the rounds of what one variant reached in a round / what another did in the same round, with the
quartiles. All give batches of the same crops: random scale, crop, horizontal flip, brightness, contrast, saturation.

- decoding: image and mask of the same files by TensorFlow's decoders, and nothing else
- native: kseg.data.training_batches
- albumentations: the same stream with `transforms=[Albumentations(...)]`, from the decoded image
- cached: both from images decoded before (`kseg.data.cached`)
- albumentations alone: the same transforms in a loop over decoded arrays, one batch after the other, without tf.data
  and without a seed for each sample, as somebody without kseg would write it

With --steps, a small network trains on the stream and, in turn, on one batch of it repeated; each line is a pass.
"""

import statistics
import sys
import time

from kseg import cli

EXAMPLES = """
python tests/benchmarks/input_pipeline.py --data DIR --crop 320 320 --rounds 15
python tests/benchmarks/input_pipeline.py --data DIR --steps 20
"""
SCALES, CHANGE = (0.75, 1.5), 0.2
PREPARED = 12  # batches: more than the stream keeps ahead
RATIOS = (
    ("native", "decoding"),
    ("native", "albumentations"),
    ("native, cached", "albumentations, cached"),
    ("native, cached", "albumentations alone"),
)


def _arguments(argv):
    parser = cli.parser(__doc__, EXAMPLES)
    parser.add_argument("--data", default="nuclei", help="as in tools/train.py; default: nuclei")
    parser.add_argument("--split", default="train", help="default: train")
    parser.add_argument("--crop", nargs=2, type=int, default=(320, 320), metavar=("H", "W"), help="default: 320 320")
    parser.add_argument("--batch", type=int, default=8, help="default: 8")
    parser.add_argument("--images", type=int, default=256, help="a round and variant; default: 256")
    parser.add_argument("--rounds", type=int, default=11, help="default: 11")
    parser.add_argument("--steps", type=int, default=0, help="of training a pass; default: 0, no training")
    return parser.parse_args(argv)


@cli.command
def main(argv=None):
    """Print the tables."""
    args = _arguments(argv)
    cli.load_keras()
    from kseg import data
    from kseg.data.sources import Subset

    source = data.open_source(args.data, args.split)
    source = Subset(source, range(min(args.images, len(source)) // args.batch * args.batch))
    rates = _rates(_variants(source, args), len(source), args.rounds)
    rows = [(name, f"{statistics.median(found):.0f}", _quartiles(found, "{:.0f}")) for name, found in rates.items()]
    cli.print_table(("images a CPU second", "median", "quartiles"), rows)
    rows = []
    for name, other in RATIOS:
        if name in rates and other in rates:
            ratios = [one / another for one, another in zip(rates[name], rates[other], strict=True)]
            rows.append((f"{name} / {other}", f"{statistics.median(ratios):.2f}", _quartiles(ratios, "{:.2f}")))
    cli.print_table(("ratio", "median", "quartiles"), rows)
    if args.steps:
        _train(source, args)
    return 0


def _variants(source, args):
    """Name -> tf.data.Dataset of all samples once: one that is left early has prepared more than was counted."""
    from kseg import data

    streams = {"decoding": _decoding(source, args.batch)}
    settings = {"crop_px": args.crop, "batch": args.batch}
    kept = data.cached(source, "memory")
    native = {"scales": SCALES, "brightness": CHANGE, "contrast": CHANGE, "saturation": CHANGE}
    streams["native"] = data.training_batches(source, **settings, **native)
    streams["native, cached"] = data.training_batches(kept, **settings, **native)
    try:
        transform = data.like_native(args.crop, **native, flips="horizontal", ignore=source.labels.ignore)
    except ImportError as error:
        print(f"without albumentations: {error}", file=sys.stderr)
        return streams
    streams["albumentations"] = data.training_batches(source, **settings, transforms=[transform])
    streams["albumentations, cached"] = data.training_batches(kept, **settings, transforms=[transform])
    streams["albumentations alone"] = _Loop(source, transform, args.batch)
    return streams


class _Loop:
    """Batches of a Compose in plain Python."""

    def __init__(self, source, transform, batch):
        pairs = [source.load(index) for index in range(len(source))]
        self._pairs = [(image, label.astype("uint8")) for image, label in pairs]
        self._compose, self._batch = transform._compose, batch

    def __iter__(self):
        import numpy as np

        for start in range(0, len(self._pairs), self._batch):
            done = [self._compose(image=i, mask=m) for i, m in self._pairs[start : start + self._batch]]
            yield (
                np.stack([one["image"] for one in done]).astype(np.float32),
                np.stack([one["mask"] for one in done]).astype(np.int32),
            )


def _decoding(source, batch):
    import tensorflow as tf

    files = [source.files(index) for index in range(len(source))]
    images, masks = (tf.constant([pair[place] for pair in files]) for place in (0, 1))

    def decode(index):
        image = tf.io.decode_image(tf.io.read_file(images[index]), channels=3, expand_animations=False)
        mask = tf.io.decode_image(tf.io.read_file(masks[index]), channels=1, expand_animations=False)
        return tf.shape(image), tf.shape(mask)  # the pixels of several images need not have one size

    numbers = tf.data.Dataset.range(len(files))
    return numbers.map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).batch(batch)


def _rates(streams, images, rounds):
    """Name -> images a CPU second in each round; a round before them is not counted."""
    rates = {name: [] for name in streams}
    for number in range(rounds + 1):
        for name, stream in cli.progress(streams.items(), f"Round {number} of {rounds}", len(streams)):
            batches = iter(stream)  # makes the graph ready, which a training does once
            started = time.process_time()
            for _ in batches:
                pass
            if number:
                rates[name].append(images / (time.process_time() - started))
    return rates


def _train(source, args):
    """Train on the stream and on one batch, in turn, and print milliseconds a step."""
    import tensorflow as tf

    from kseg import applications, data, losses

    model = applications.UNet(classes=len(source.labels), input_shape=(*args.crop, 3), filters=8)
    model.compile("adam", losses.CrossEntropy(ignore=source.labels.ignore))
    stream = data.training_batches(source, args.crop, args.batch, epochs=10**6)
    (one,) = stream.take(1)
    feeds = {"real": iter(stream), "synthetic": iter(tf.data.Dataset.from_tensors(one).repeat().prefetch(2))}
    times = {name: [] for name in feeds}
    for number in range(args.rounds + 1):
        for name, feed in feeds.items():
            for _ in range(PREPARED):  # what was prepared while the other one ran is not for this pass
                next(feed)
            started = time.perf_counter()
            for _ in range(args.steps):
                model.train_on_batch(*next(feed))
            if number:
                times[name].append((time.perf_counter() - started) / args.steps * 1e3)
    rows = [(name, f"{statistics.median(found):.1f}", _quartiles(found, "{:.1f}")) for name, found in times.items()]
    more = [100 * (real / other - 1) for real, other in zip(times["real"], times["synthetic"], strict=True)]
    rows.append(("real slower by, %", f"{statistics.median(more):.1f}", _quartiles(more, "{:.1f}")))
    title = f"ms a step (U-Net, {model.count_params() / 1e6:.2f} M)"
    cli.print_table((title, "median", "quartiles"), rows)


def _quartiles(values, form):
    if len(values) < 2:
        return "-"
    low, _, high = statistics.quantiles(values, n=4)
    return f"{form.format(low)} to {form.format(high)}"


if __name__ == "__main__":
    sys.exit(main())
