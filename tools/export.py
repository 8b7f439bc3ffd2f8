"""Write a trained network as a TFLite or ONNX file with its card, proven against Keras on real images."""

import sys
from pathlib import Path

from kseg import cli

EXAMPLES = """
python tools/export.py runs/nuclei/best.keras --out runs/export --format tflite --size 256 256
python tools/export.py best.keras --out exported --format tflite --precision int8 --size 360 480 \\
    --calibrate DIR --verify DIR
python tools/export.py best.keras --out exported --format onnx --size 360 480 --verify DIR
"""


def _arguments(argv):
    parser = cli.parser(__doc__, EXAMPLES)
    parser.add_argument("model", type=Path, metavar="MODEL.keras")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="gets the file and its card")
    parser.add_argument("--name", help="of the file; default: the model's file name and the precision")
    parser.add_argument("--format", required=True, choices=("tflite", "onnx"))
    parser.add_argument("--precision", default="float32", choices=("float32", "float16", "dynamic", "int8"))
    parser.add_argument("--size", nargs=2, type=int, metavar=("H", "W"), help="default: the first image to verify with")
    parser.add_argument("--calibrate", metavar="DATA", help="for int8: images like those it will see")
    parser.add_argument("--verify", metavar="DATA", default="nuclei", help="default: the bundled nuclei (val split)")
    parser.add_argument("--splits", nargs=2, default=("train", "val"), metavar=("CALIBRATE", "VERIFY"))
    parser.add_argument("--images", type=int, default=32, help="calibrate and verify with at most so many; default: 32")
    return parser.parse_args(argv)


@cli.command
def main(argv=None):
    """Convert, check, and only then leave file and card in the folder."""
    args = _arguments(argv)
    from kseg import data, export, training

    model, labels = training.load_model(args.model)
    verify = data.open_source(args.verify, args.splits[1])
    pairs = _spread(verify, args.images)
    calibration = None
    if args.calibrate:
        calibrate = data.open_source(args.calibrate, args.splits[0])
        calibration = [image for image, _ in _spread(calibrate, args.images)]
    size_px = tuple(args.size) if args.size else model.input_shape[1:3]
    if None in size_px:
        size_px = pairs[0][0].shape[:2]
    name = args.name or f"{args.model.stem}_{args.precision}"
    card = export.export(
        model,
        labels,
        args.out / f"{name}.{args.format}",
        format=args.format,
        precision=args.precision,
        size_px=size_px,
        calibration=calibration,
        # Labels of other classes would give a mean IoU without meaning.
        verification=pairs if verify.labels.names == labels.names else [(image, None) for image, _ in pairs],
        verification_data=f"{args.verify} {args.splits[1]}",
    )
    path = args.out / card.file
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, {card.precision}, {size_px[0]}x{size_px[1]}, with its card")
    for key, value in card.parity.items():
        print(f"  {key}: {f'{value:.5g}' if isinstance(value, float) else value}")
    print(f"Next: python tools/predict.py {path} YOUR_IMAGE --out runs/pictures")
    return 0


def _spread(source, most):
    """At most `most` pairs (image, label) as NumPy arrays, spread evenly over the source."""
    count = min(most, len(source.names))
    return [source.load(i * len(source.names) // count) for i in range(count)]


if __name__ == "__main__":
    sys.exit(main())
