"""How good are 8-bit files, ours and those of the makers of the formats? One table, all scored on the same images.

    python tests/benchmarks/quantisation.py runs/nuclei/best.keras --data nuclei --size 256 256
    python tests/benchmarks/quantisation.py best.keras --data DIR --size 360 480 --images 101

"plain" is `tf.lite.TFLiteConverter` with a representative data set, and onnxruntime's `quantize_static` of our float32
file: of the same network, calibrated with the same images. Then come kseg's files without what it does beside rounding:
channels of like size (`kseg/export/equalise.py`), biases that take back shifts (`kseg/export/bias.py`), and neither.
Error: of the scores, root mean square over that of Keras's. The images to calibrate with are not scored.
"""

import importlib
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from kseg import cli

TFLITE, QUANTISE, ONNX = "kseg.export.tflite", "kseg.export.tflite.quantise", "kseg.export.onnx.int8"


def _arguments(argv):
    parser = cli.parser(__doc__.split("\n")[0], __doc__.split("\n\n")[1])
    parser.add_argument("model", type=Path, metavar="MODEL.keras")
    parser.add_argument("--data", required=True, help="folder of images and masks, or 'nuclei' (bundled)")
    parser.add_argument("--size", nargs=2, type=int, required=True, metavar=("H", "W"))
    parser.add_argument("--images", type=int, default=64, help="score on at most so many of val; default: 64")
    parser.add_argument("--calibration-images", type=int, default=32, metavar="N", help="of train; default: 32")
    return parser.parse_args(argv)


@cli.command
def main(argv=None):
    """Make, score and print one file after the other."""
    args = _arguments(argv)
    cli.load_keras()
    from kseg import data, export, runtime, training
    from kseg.export import scoring
    from kseg.export.onnx import write_onnx
    from kseg.export.tflite import write_tflite
    from kseg.lowering import lower

    model, labels = training.load_model(args.model)
    calibration = export.calibrate(args.data, "train", args.calibration_images)
    pairs = scoring.pairs_to_score(data.open_source(args.data, "val"), calibration, args.images)
    network = lower(model, tuple(args.size))
    keras_score = scoring.score_keras(network, labels, pairs)
    card = scoring.card_of(network, labels)
    print("| file | mean IoU | lost | same class | error |\n|---|---|---|---|---|")
    print(f"| Keras, {len(pairs)} images | {keras_score.mean_iou:.4f} | | | |", flush=True)
    makers = {
        "TFLite, plain": lambda path: _plain_tflite(network, calibration, path),
        "TFLite, kseg": lambda path: write_tflite(network, path, "int8", calibration=calibration),
        "ONNX, plain": lambda path: _plain_onnx(network, calibration, path),
        "ONNX, kseg": lambda path: write_onnx(network, path, "int8", calibration=calibration.images),
    }
    for name, make in makers.items():
        for without in ((), ("bias",), ("equalise",), ("equalise", "bias")) if "kseg" in name else ((),):
            with tempfile.TemporaryDirectory() as folder, _Without(without):
                path = Path(folder, f"net.{name[:6].strip(', ').lower()}")
                make(path)
                dtype = "uint8" if path.suffix == ".tflite" else "float32"
                filed = replace(card, file=path.name, precision="int8", input=card.input | {"dtype": dtype})
                run = importlib.import_module(f"kseg.runtime{path.suffix}")
                opened = getattr(run, f"open_{path.suffix[1:]}")(path, filed, 2)
                score = scoring.score(runtime.Predictor(filed, opened), pairs, keras_score)
            told = f"{name} without {' and '.join(without)}" if without else name
            lost = keras_score.mean_iou - score.mean_iou
            same, error = score.argmax_agreement, score.relative_rms_error
            print(f"| {told} | {score.mean_iou:.4f} | {lost:+.4f} | {same:.4f} | {error:.3f} |", flush=True)
    return 0


class _Without:
    """While it lasts, kseg's files are made without these of its steps."""

    def __init__(self, steps):
        self._steps, self._kept = steps, []

    def __enter__(self):
        if "bias" in self._steps:
            for module in (QUANTISE, ONNX):
                self._set(module, "shift", lambda errors, means: np.zeros(len(errors)))
        if "equalise" in self._steps:
            self._set(TFLITE, "equalise", lambda network, ranges: ranges)
            self._set(ONNX, "equalise", lambda proto, weights, ranges: (weights, ranges))

    def _set(self, module, name, value):
        module = importlib.import_module(module)
        self._kept.append((module, name, getattr(module, name)))
        setattr(module, name, value)

    def __exit__(self, *_):
        for kept in self._kept:
            setattr(*kept)


def _plain_tflite(network, calibration, path):
    import tensorflow as tf

    from kseg.runtime.chatter import muted

    converter = tf.lite.TFLiteConverter.from_keras_model(network)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image] for image in calibration.at_size(network.input_shape[1:3]))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8
    with muted():
        path.write_bytes(converter.convert())


def _plain_onnx(network, calibration, path):
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    from kseg.export.onnx import write_onnx
    from kseg.runtime.chatter import muted

    class Reader:
        images = calibration.at_size(network.input_shape[1:3])

        def get_next(self):
            return next(({"image": image} for image in self.images), None)

    plain = path.with_name("float.onnx")
    write_onnx(network, plain)
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    with muted():
        quantize_static(plain, path, Reader(), QuantFormat.QDQ, per_channel=True, reduce_range=True, **kinds)


if __name__ == "__main__":
    sys.exit(main())
