"""What a data set of very many images costs before and while it is read: seconds and peak memory of each step.

The images are hard links to the bundled ones, in a temporary folder: only their number counts here.
"""

import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from kseg import cli

EXAMPLES = """
python tests/benchmarks/long_data.py --images 100000
"""


@cli.command
def main(argv=None):
    """Print the table."""
    parser = cli.parser(__doc__, EXAMPLES)
    parser.add_argument("--images", type=int, default=100_000, help="default: 100000")
    parser.add_argument("--batches", type=int, default=20, help="of 8 crops, read at the end; default: 20")
    parser.add_argument("--scan", action="store_true", help="check every image, too")
    args = parser.parse_args(argv)
    import tensorflow as tf

    from kseg import data

    rows = []

    def done(step, since):
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rows.append((step, f"{time.perf_counter() - since:.1f}", f"{peak_mib:.0f}"))

    tf.constant(0)
    done("import TensorFlow", time.perf_counter())
    with tempfile.TemporaryDirectory(prefix="long-data-") as folder:
        _link(Path(folder), args.images)
        now = time.perf_counter()
        source = data.open_source(folder, "train")
        done(f"open {len(source)} images", now)
        if args.scan:
            now = time.perf_counter()
            data.scan(source)
            done("scan them", now)
        now = time.perf_counter()
        batches = iter(data.training_batches(source, (128, 128), batch=8, epochs=2))
        done("make the stream", now)
        now = time.perf_counter()
        next(batches)
        done("first batch", now)
        now = time.perf_counter()
        for _ in range(args.batches):
            next(batches)
        done(f"{args.batches} more batches", now)
    cli.print_table(("step", "seconds", "peak MiB"), rows)
    return 0


def _link(folder, count):
    """A folder with `count` images and masks, all hard links to a few files."""
    from kseg import data

    few = data.open_source("nuclei", "train")
    few.labels.save(folder / "labels.json")
    for kind in (0, 1):
        (folder / ("images", "masks")[kind] / "train").mkdir(parents=True)
    copies = []
    for index in range(min(8, len(few))):
        copies.append([])
        for kind, file in enumerate(few.files(index)):
            copy = folder / f"{kind}-{index}{Path(file).suffix}"  # hard links need one file system
            copy.write_bytes(Path(file).read_bytes())
            copies[-1].append(copy)
    for number in range(count):
        for kind, copy in zip(("images", "masks"), copies[number % len(copies)], strict=True):
            os.link(copy, folder / kind / "train" / f"{number:07d}{copy.suffix}")


if __name__ == "__main__":
    sys.exit(main())
