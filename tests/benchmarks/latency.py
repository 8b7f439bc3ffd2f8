"""How fast kseg's .tflite files are, against those of TensorFlow's plain converter and of other makers.

Each network has the same random weights in both files of a line: one is written by kseg, the other by
`tf.lite.TFLiteConverter.from_keras_model(model)` with its usual free batch. 8 bits are full-integer with uint8 images
in both; the plain file then gives uint8 scores. The files of one line run in turn, so that their ratio holds on a
machine that others use, too; medians of different lines do not compare as well. No data is needed.

Columns: "plain / kseg" is the median over the rounds of the plain file's time / kseg's in the same round, with the
quartiles, so more than 1 means that kseg's file is faster; peak memory is that of a process which loads the file and
runs it once; "whole" is whether LiteRT's delegate takes every operator; "same class" is the part of the pixels of one
picture to which both float32 files give the same class. It says that both are the same network, and is left out for 8
bits, because random weights leave the classes close together; parity.py measures that with trained ones. A file that
cannot be made is a line with the reason, and the exit code is 1 if it is one of kseg's.
"""

import argparse
import math
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kseg import cli

EXAMPLES = """
python tests/benchmarks/latency.py --out latency.md
python tests/benchmarks/latency.py --only fcn8s unet_mobilenet --runs 200 --threads 1
python tests/benchmarks/latency.py --only peers --peers DIR_OF_TFLITE_FILES
python tests/benchmarks/latency.py --only fcn8s --files made && \\
    python tools/benchmark.py made/fcn8s-*-int8.tflite --per-op
"""
CLASSES = 21
CALIBRATION_IMAGES = 8
PRECISIONS = ("float32", "int8")
# A group of files ends after these even if it has not run as often as wished.
GROUP_SECONDS = 600


@dataclass(frozen=True)
class Network:
    """A builder of kseg.applications, its arguments and the size of the images."""

    builder: str
    size_px: tuple
    options: dict = field(default_factory=dict)

    def __str__(self):
        given = ", ".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.builder}({given}), {_by(self.size_px)}"


_MOBILENET = {"backbone": "mobilenet_v2", "filters": 16, "batch_normalization": True}  # as recipe camvid_unet_mobilenet
_DEEPLAB = {"backbone": "mobilenet_v2", "filters": 128}
# Without atrous convolutions, as the published files.
_PHONE = {**_DEEPLAB, "rates": ()}
NETWORKS = {
    "fcn32s": Network("FCN32s", (224, 224), {"fc_units": 256}),
    "fcn16s": Network("FCN16s", (224, 224), {"fc_units": 256}),
    "fcn8s": Network("FCN8s", (224, 224), {"fc_units": 256}),
    "unet": Network("UNet", (256, 256), {"filters": 32, "batch_normalization": True}),  # as recipe membranes_unet
    "unet_mobilenet": Network("UNet", (224, 224), _MOBILENET),
    "deeplab": Network("DeepLabV3Plus", (224, 224), {"filters": 128}),  # as recipe camvid_deeplab_vgg16
    "deeplab_mobilenet": Network("DeepLabV3Plus", (224, 224), _DEEPLAB),
}
# Sizes of well-known DeepLabv3 files, which --peers is for.
AGAINST_PEERS = {
    f"{name}_{edge}": Network(builder, (edge, edge), options)
    for edge in (513, 257)
    for name, builder, options in (("deeplab", "DeepLabV3Plus", _PHONE), ("unet_mobilenet", "UNet", _MOBILENET))
}
# What the files of other makers are compared with: name, precision, output. Ratios refer to the first one.
PEER_FILES = tuple(
    (f"{name}_{edge}", precision, output)
    for name in ("deeplab", "unet_mobilenet")
    for edge, precision, output in (
        (513, "int8", "labels"),
        (513, "int8", "logits"),
        (513, "float32", "logits"),
        (257, "float32", "logits"),
    )
)
HEADINGS = (
    "network",
    "precision",
    "kseg, ms",
    "plain, ms",
    "plain / kseg",
    "kseg, MB",
    "plain, MB",
    "kseg, peak MiB",
    "plain, peak MiB",
    "kseg whole",
    "plain whole",
    "same class",
)
PEER_HEADINGS = ("file", "image", "output", "median, ms", "time / first", "MB", "peak MiB", "whole")


def _arguments(argv):
    parser = cli.parser(__doc__, EXAMPLES)
    names = [*NETWORKS, "peers"]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", default=names, help=", ".join(names))
    parser.add_argument("--peers", type=Path, metavar="DIR", help=".tflite files of other makers, to compare with")
    parser.add_argument("--runs", type=int, default=100, help="of each file, in turn; default: 100")
    parser.add_argument("--threads", type=int, help="of the interpreter; default: one a core")
    parser.add_argument("--files", type=Path, metavar="DIR", help="keep the files here")
    parser.add_argument("--out", type=Path, metavar="TABLE.md", help="write the tables here, too")
    parser.add_argument("--inside", nargs=4, metavar=("NETWORK", "KIND", "OUTPUT", "FILE"), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


@cli.command
def main(argv=None):
    """Make the files and time them, one line of the tables after the other; 1 if kseg could not make one."""
    args = _arguments(argv)
    if args.inside:
        return _inside(*args.inside)
    from kseg.errors import InputError
    from kseg.evaluation import benchmark

    settings = benchmark.Settings(args.threads, args.runs, seconds=GROUP_SECONDS)
    if args.out:
        cli.check_file(args.out)
    peers = sorted(args.peers.glob("*.tflite")) if args.peers else []
    if args.peers and not peers:
        raise InputError(f"{args.peers}: holds no .tflite files")
    if args.files:
        args.files.mkdir(parents=True, exist_ok=True)
    text, failed = _Text(args.out), False
    with tempfile.TemporaryDirectory(prefix="latency-") as temporary:
        folder = args.files or Path(temporary)
        names = [name for name in NETWORKS if name in args.only]
        text.table(HEADINGS if names else ())
        for name in names:
            for cells, passed in _lines(name, folder, settings):
                text.line(cells)
                failed |= not passed
        if "peers" in args.only and not peers:
            text.write("\nNot compared with files of other makers: no --peers was given.")
        elif "peers" in args.only:
            text.table(PEER_HEADINGS)
            for cells, passed in _peer_lines(peers, folder, settings):
                text.line(cells)
                failed |= not passed
    text.write(f"\n{_conditions(benchmark.environment(settings))}")
    return int(failed)


def _lines(name, folder, settings):
    """Yield (cells, whether kseg's file could be made) for each precision of a network."""
    made = {
        (maker, precision): _make(name, f"{maker} {precision}", "logits", folder)
        for precision in PRECISIONS
        for maker in ("kseg", "plain")
    }
    for precision in PRECISIONS:
        pair = [made["kseg", precision], made["plain", precision]]
        found = dict(zip([one for one in pair if isinstance(one, Path)], _measured(pair, settings), strict=True))
        kseg, plain = (found.get(one) for one in pair)
        milliseconds = [f"{found[one].median_ms:.2f}" if one in found else str(one) for one in pair]
        yield (
            (
                str(NETWORKS[name]),
                precision,
                *milliseconds,
                _ratio(plain) if kseg and plain else "-",
                *(f"{one.size_mb:.2f}" if one else "-" for one in (kseg, plain)),
                *(f"{one.peak_mib:.0f}" if one else "-" for one in (kseg, plain)),
                *(_accelerated(one) if one in found else "-" for one in pair),
                _same_class(*pair, settings.threads) if precision == "float32" and kseg and plain else "-",
            ),
            kseg is not None,
        )


def _peer_lines(peers, folder, settings):
    """Yield (cells, whether the file could be made) for kseg's files and those of others."""
    ours = {file: _make(file[0], f"kseg {file[1]}", file[2], folder) for file in PEER_FILES}
    files = {path: f"kseg, {AGAINST_PEERS[name]}, {precision}" for (name, precision, _), path in ours.items()}
    files |= {path: path.name for path in peers}
    found = dict(zip([one for one in files if isinstance(one, Path)], _measured(files, settings), strict=True))
    for one, title in files.items():
        if one not in found:
            yield (title, "-", "-", str(one), *"----"), False
            continue
        measured = found[one]
        image, output = (_port(port) for port in _ports(one))
        numbers = (f"{measured.median_ms:.2f}", _ratio(measured), f"{measured.size_mb:.2f}", f"{measured.peak_mib:.0f}")
        yield (title, image, output, *numbers, _accelerated(one)), True


def _measured(files, settings):
    """Measurements of those of the files that could be made, run in turn."""
    from kseg.evaluation import benchmark

    paths = [one for one in files if isinstance(one, Path)]
    return benchmark.measure(paths, settings, _tell) if paths else []


def _make(name, kind, output, folder):
    """Have a process of its own write a file, for conversion needs much memory; returns its path, or why there is none.

    Args:
        name: in NETWORKS or AGAINST_PEERS.
        kind: of file, "kseg" or "plain" and the precision, such as "kseg int8".
        output: "logits" or "labels"; the plain files know logits only.
        folder: where it is to lie.
    """
    _tell(f"{name}: writing {kind} {output}")
    path = Path(folder, f"{name}-{kind.replace(' ', '-')}{'' if output == 'logits' else f'-{output}'}.tflite")
    command = [sys.executable, __file__, "--inside", name, kind, output, str(path)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    if not done.returncode:
        return path
    said = (done.stdout.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    reason = f"killed by signal {-done.returncode}" if done.returncode < 0 else " ".join(said.split())
    _tell(f"  failed: {reason}")
    return _Failure(f"failed: {reason}".replace("|", "\\|"))


class _Failure(str):
    """Why there is no file, as a cell of the table."""


def _ratio(measured):
    return f"{measured.ratio:.2f} ({measured.ratio_low:.2f}-{measured.ratio_high:.2f})"


def _accelerated(path):
    from kseg.export.inspect import fully_accelerated  # after the measurements: it brings TensorFlow

    return {True: "yes", False: "no", None: "not known"}[fully_accelerated(path)]


def _same_class(path, other, threads):
    """The part of the pixels of one picture to which both files give the same class, rounded down."""
    same = np.mean(_classes(path, threads) == _classes(other, threads))
    return f"{math.floor(same * 1e4) / 1e4:.4f}"


def _classes(path, threads):
    from kseg.evaluation.runners import fill_interpreter

    interpreter, pictures = fill_interpreter(path, threads)
    for index, picture in pictures.items():
        interpreter.set_tensor(index, picture)
    interpreter.invoke()
    (scores,) = interpreter.get_output_details()
    return np.argmax(interpreter.get_tensor(scores["index"]), axis=-1)


def _ports(path):
    from kseg.export.inspect import inspect

    report = inspect(path)
    return report.inputs[0], report.outputs[0]


def _port(port):
    return f"{_by(port.shape[1:])} {port.dtype}"


def _by(shape):
    return "x".join(map(str, shape))


def _conditions(environment):
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    settings = environment["settings"]
    return (
        f"{settings['threads']} threads of {_processor() or environment['machine']}, {environment['cores']} cores; "
        f"{settings['runs']} rounds or {settings['seconds']:g} s a line; {versions}."
    )


def _processor():
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return found and found[1]


def _tell(text):
    print(text, file=sys.stderr, flush=True)


class _Text:
    """Prints each line as soon as it is known, so that an interrupted run has not been for nothing."""

    def __init__(self, path):
        self._path, self._lines = path, []

    def table(self, headings):
        """Begin a table; without headings there is none."""
        if headings:
            self.write("\n" * bool(self._lines) + f"| {' | '.join(headings)} |\n|{'---|' * len(headings)}")

    def line(self, cells):
        self.write(f"| {' | '.join(cells)} |")

    def write(self, text):
        print(text, flush=True)
        self._lines.append(text + "\n")
        if self._path:
            self._path.write_text("".join(self._lines), encoding="utf-8")


# ---- in the process that makes one file


def _inside(name, kind, output, path):
    network = (NETWORKS | AGAINST_PEERS)[name]
    maker, precision = kind.split()
    {"kseg": _write_kseg, "plain": _write_plain}[maker](network, precision, output, Path(path))
    return 0


def _write_kseg(network, precision, output, path):
    from kseg.export import Calibration, tflite
    from kseg.lowering import lower

    lowered = lower(_model(network), network.size_px, output=output)
    calibration = Calibration(tuple(_pictures(network.size_px)))
    tflite.write_tflite(lowered, path, precision, output=output, calibration=calibration, input_dtype="uint8")


def _write_plain(network, precision, output, path):
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(_model(network))
    if precision == "int8":
        # https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/post_training_integer_quant
        images = _pictures(network.size_px)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None].astype(np.float32)] for image in images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.uint8
    path.write_bytes(converter.convert())


def _model(network):
    from kseg import applications

    build = getattr(applications, network.builder)
    model = build(input_shape=(*network.size_px, 3), classes=CLASSES, **network.options)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if layer.trainable:  # the fixed bilinear upsampling of FCN stays
            layer.set_weights([_weights(layer, weight, rng) for weight in layer.weights])
    return model


def _weights(layer, weight, rng):
    """Weights that keep activations at about the same size throughout the network."""
    shape, kind = tuple(weight.shape), type(layer).__name__
    if weight.name in ("gamma", "moving_variance"):
        return rng.uniform(0.5, 1.5, shape)
    if weight.name in ("bias", "beta", "moving_mean"):
        return rng.normal(0, 0.1, shape)
    if kind == "Conv2DTranspose":  # [h, w, outputs, inputs]; strides part the h * w taps among as many pixels
        inputs = math.prod(shape[:2]) * shape[3] / math.prod(layer.strides)
    else:
        inputs = math.prod(shape[:2] if kind == "DepthwiseConv2D" else shape[:-1])
    return rng.normal(0, math.sqrt(2 / inputs), shape)  # He et al. 2015, eq. 10


def _pictures(size_px):
    from kseg.runtime.resize import resize

    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (CALIBRATION_IMAGES, 8, 8, 3)).astype(np.uint8)
    return [resize(image, size_px).astype(np.uint8) for image in coarse]


if __name__ == "__main__":
    sys.exit(main())
