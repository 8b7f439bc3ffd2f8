"""Write a trained network as a TFLite or ONNX file with its card, proven against Keras on real images."""

import shlex
import sys
from pathlib import Path

from kseg import cli

EXAMPLES = """
python tools/export.py runs/nuclei/best.keras --out runs/export --format tflite --size 256 256
python tools/export.py best.keras --out exported --format tflite --precision int8 --calibrate photos --verify others
python tools/export.py best.keras --out exported --format onnx --any-size --verify DIR
python tools/export.py --check anyones.tflite
"""


def _arguments(argv):
    parser = cli.parser(__doc__, EXAMPLES)
    parser.add_argument("model", nargs="?", type=Path, metavar="MODEL.keras")
    parser.add_argument("--out", type=Path, metavar="DIR", help="gets the file and its card")
    parser.add_argument("--name", type=cli.plain_name, help="of the file; default: the model's and the precision")
    parser.add_argument("--format", choices=("tflite", "onnx"), help="needed, as MODEL.keras and --out are")
    kinds = ("float32", "float16", "dynamic", "int8", "int16x8")
    parser.add_argument("--precision", default="float32", choices=kinds, help="ONNX: float32, float16, int8")
    parser.add_argument("--output", default="logits", choices=("logits", "probabilities", "labels"))
    parser.add_argument("--input", choices=("float32", "uint8"), help="default: uint8 for int8 .tflite, else float32")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--size", nargs=2, type=int, metavar=("H", "W"), help="default: the first image to verify with")
    sizes.add_argument("--any-size", action="store_true", help="keep height and width open; slower on phones")
    parser.add_argument("--calibrate", metavar="DATA", help="for int8 and int16x8: images like those it will see")
    parser.add_argument("--verify", metavar="DATA", help="also images alone; for nuclei, the bundled ones need no word")
    parser.add_argument("--splits", nargs=2, default=("train", "val"), metavar=("CALIBRATE", "VERIFY"))
    parser.add_argument("--images", type=int, default=32, help="calibrate and verify with at most so many; default: 32")
    parser.add_argument("--float-layers", nargs="+", default=(), metavar="LAYER", help="stay in float in an int8 file")
    parser.add_argument("--check", type=Path, metavar="FILE.tflite", help="only tell what delegates refuse of a file")
    cli.add_skip_bad(parser)
    args = parser.parse_args(argv)
    if args.check is None and None in (args.model, args.out, args.format):
        parser.error("MODEL.keras, --out and --format are needed, or --check FILE.tflite alone")
    return args


@cli.command
def main(argv=None):
    """Convert, check, and only then leave file and card in the folder."""
    args = _arguments(argv)
    cli.load_keras()
    from kseg import export, training

    if args.check:
        print("\n".join(export.inspect(args.check, run=True).lines()))
        return 0
    cli.check_output(args.out)
    cli.check_images(args.images)
    model, labels = training.load_model(args.model)
    shown = args.verify or export.bundled(labels)
    pairs = export.verification(shown, args.splits[1], args.images, labels, args.skip_bad)
    if pairs[0][1] is None:
        print(f"{shown} has no masks of the network's classes: it proves the file, but gives no mean IoU")
    size_px = tuple(args.size) if args.size else model.inputs[0].shape[1:3]
    path = args.out / f"{args.name or f'{args.model.stem}_{args.precision}'}.{args.format}"
    card = export.export(
        model,
        labels,
        path,
        format=args.format,
        precision=args.precision,
        size_px=pairs[0][0].shape[:2] if None in size_px and not args.any_size else size_px,
        output=args.output,
        input_dtype=args.input,
        resizable=args.any_size,
        calibration=args.calibrate and export.calibrate(args.calibrate, args.splits[0], args.images, args.skip_bad),
        verification=pairs,
        verification_data=export.data_name(shown, args.splits[1]),
        float_layers=args.float_layers,
    )
    size, named = "x".join(map(str, card.size_px)) if card.size_px else "any size", shlex.quote(str(path))
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, {card.precision}, {size}, with its card. Both at this size:")
    for key, value in card.parity.items():
        print(f"  {key}: {f'{value:.5g}' if isinstance(value, float) else value}")
    if card.check:
        told = {True: "taken whole", False: "taken in part", None: "unknown"}[card.check["fully_accelerated"]]
        print(cli.as_called(f"  CPU delegate: {told}; the others: python tools/export.py --check {named}"))
    if len(labels) > 1:  # of one class, a picture would need a threshold
        print(cli.as_called(f"Next: python tools/predict.py {named} YOUR_IMAGE"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
