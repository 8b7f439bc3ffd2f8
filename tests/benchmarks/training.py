"""How fast a U-Net trains and predicts: kseg's beside the same network in PyTorch, and both beside the machine.

The network is U-Net (Ronneberger et al. 2015) with batch normalisation, 21 classes, cross-entropy and Adam, on one
batch of images that lies in memory. `kseg` is kseg.applications.UNet in `model.fit` on the Keras backend that
KERAS_BACKEND names; `unfused` is the same with Keras's own batch normalisation and Adam; `pytorch` is
written out in training_contestants.py, in channels_last, with autocast for the mixed precisions. Each runs in a process
of its own with the same number of threads, and they take turns, so that ratios hold on a machine that others use, too;
medians of different lines do not compare as well. On a machine where others take most of the cores, `--threads 1
--cpu-time` is the better clock.

"of the machine" is the rate of the network's arithmetic over that of a large product of matrices, which the same
process measures in the same turn, with the same library, precision and threads (float32 on a GPU: TF32, which the
libraries use for convolutions, too). Counted are the multiplications and additions of the convolutions, backward
twice as many as forward; what a library saves by Winograd's method makes its share larger. "x kseg" is the median
over the rounds of kseg's time / this one's, same precision, with the quartiles: more than 1 is faster than kseg.

On a CPU without bfloat16 instructions (AMX, AVX512-BF16) mixed_bfloat16 is emulated and slow; mixed_float16 is for
GPUs. A contestant that cannot run is a line with the reason, and the exit code is 1 if it is kseg.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

from kseg import cli

EXAMPLES = """
python tests/benchmarks/training.py --out training.md
python tests/benchmarks/training.py --filters 16 --precision float32 --rounds 20
python tests/benchmarks/training.py --pytorch OTHER_ENVIRONMENT/bin/python
KERAS_BACKEND=jax python tests/benchmarks/training.py --size 256 --batch 32      # on a GPU
"""
ROOT = Path(__file__).resolve().parents[2]
CONTESTANTS = Path(__file__).with_name("training_contestants.py")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
MAKERS = ("kseg", "unfused", "pytorch")
WORKS = ("train", "predict", "product")
HEADINGS = (
    "network",
    "precision",
    *("training, images/s", "of the machine", "x kseg"),
    *("predicting, images/s", "of the machine", "x kseg"),
    "product, GFLOP/s",
)


def _arguments(argv):
    parser = cli.parser(__doc__, EXAMPLES)
    parser.add_argument("--filters", type=int, default=64, help="at full resolution; default: 64, as published")
    parser.add_argument("--size", type=int, default=128, metavar="PX", help="height and width; default: 128")
    parser.add_argument("--batch", type=int, default=4, help="images; default: 4")
    parser.add_argument(
        "--precision", nargs="+", choices=PRECISIONS, help="default: all that suit, so mixed_float16 on GPUs only"
    )
    parser.add_argument("--only", nargs="+", choices=MAKERS, default=MAKERS, help="default: all")
    parser.add_argument("--rounds", type=int, default=10, help="turns that each takes; default: 10")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: one a core")
    parser.add_argument("--cpu-time", action="store_true", help="count CPU seconds, of all threads, in all columns")
    parser.add_argument("--pytorch", metavar="PYTHON", default=sys.executable, help="an interpreter that has PyTorch")
    parser.add_argument("--out", type=Path, metavar="TABLE.md", help="write the table here, too")
    return parser.parse_args(argv)


@cli.command
def main(argv=None):
    """Start the contestants, let them take turns, print the table; 1 if kseg could not run."""
    args = _arguments(argv)
    if args.out:
        cli.check_file(args.out)
    contestants = _start(args)
    try:
        for number in range(args.rounds):
            _tell(f"round {number + 1} of {args.rounds}")
            for one in contestants:
                one.take_turn()
    finally:
        for one in contestants:
            one.stop()
    text = "\n".join(_table(contestants, args)) + "\n"
    print(text, end="")
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    return int(any(one.maker == "kseg" and one.failure for one in contestants))


def _start(args):
    """All contestants, those that cannot run, too; each is ready before the next one starts."""
    precisions, contestants = list(args.precision or PRECISIONS[:2]), []
    for precision in precisions:  # may grow by the one for GPUs
        for maker in args.only:
            _tell(f"starting {maker} in {precision}")
            contestants.append(_Contestant(maker, precision, args))
        on_gpu = any(one.facts.get("device") == "gpu" for one in contestants)
        if on_gpu and not args.precision and PRECISIONS[2] not in precisions:
            precisions.append(PRECISIONS[2])
    return contestants


class _Contestant:
    """A process that trains, predicts and multiplies when asked; `seconds` holds {work: [those of each turn]}."""

    def __init__(self, maker, precision, args):
        self.maker, self.precision, self._clock = maker, precision, int(args.cpu_time)
        self.seconds, self.facts, self.failure = {work: [] for work in WORKS}, {}, None
        interpreter = args.pytorch if maker == "pytorch" else sys.executable
        sizes = (str(size) for size in (args.filters, args.size, args.batch))
        threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **dict.fromkeys(threads, str(args.threads))}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        # Several processes share the GPU.
        environment |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
        self._process = subprocess.Popen(
            [interpreter, CONTESTANTS, maker, precision, *sizes],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.facts = self._answer() or {}

    def take_turn(self):
        """Let it do each kind of work once."""
        if self.failure:
            return
        print("turn", file=self._process.stdin, flush=True)
        for work, seconds in (self._answer() or {}).items():
            self.seconds[work].append(seconds[self._clock])

    def _answer(self):
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"failure": f"ended with exit status {self._process.wait()}"}
        self.failure = answer.get("failure")
        return None if self.failure else answer

    def stop(self):
        """End the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


# ---- the table


def _table(contestants, args):
    yield f"| {' | '.join(HEADINGS)} |"
    yield f"|{'---|' * len(HEADINGS)}"
    ours = {one.precision: one for one in contestants if one.maker == "kseg" and not one.failure}
    for one in contestants:
        if one.failure:
            yield f"| {one.maker} | {one.precision} | {one.failure} |{' - |' * (len(HEADINGS) - 3)}"
            continue
        cells = [one.maker, one.precision]
        for work in WORKS[:2]:
            cells += [
                f"{args.batch / statistics.median(one.seconds[work]):.2f}",
                _share(one, work),
                _ratio(one, ours, work),
            ]
        cells.append(f"{one.facts['product_flop'] / statistics.median(one.seconds['product']) / 1e9:.0f}")
        yield f"| {' | '.join(cells)} |"
    yield ""
    running = [one for one in contestants if not one.failure]
    if len({(one.facts["parameters"], one.facts["flop"]) for one in running}) > 1:
        yield "These are different networks: their numbers of parameters or operations differ."
    for one in running[:1]:
        yield (
            f"U-Net, filters={args.filters}, {one.facts['parameters'] / 1e6:.2f} M parameters, "
            f"{one.facts['flop'] / args.batch / 1e9:.1f} GFLOP an image forward; batches of {args.batch} images of "
            f"{args.size}x{args.size}; {args.rounds} rounds; {args.threads} threads of {os.cpu_count()} cores"
            f"{'; seconds are CPU seconds' if args.cpu_time else ''}."
        )
    for library in dict.fromkeys(one.facts["library"] for one in running):
        yield f"{library}."


def _share(one, work):
    """Of the rate of a matrix product in the same turn."""
    more = (3 if work == "train" else 1) * one.facts["flop"] / one.facts["product_flop"]
    share = np.median(np.divide(one.seconds["product"], one.seconds[work])) * more
    return f"{share:.0%}"


def _ratio(one, ours, work):
    if one.precision not in ours:
        return "-"
    ratios = np.divide(ours[one.precision].seconds[work], one.seconds[work])
    low, median, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    return f"{median:.2f} ({low:.2f}-{high:.2f})"


def _tell(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
