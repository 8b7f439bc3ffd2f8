"""Label every pixel of your images; any size, any network file."""

import sys
from pathlib import Path

from kseg import cli

EXAMPLES = """
python tools/predict.py runs/nuclei/best.keras photo.jpg --out runs/pictures
python tools/predict.py unet.tflite *.png --out runs/pictures
python tools/predict.py unet.tflite slide.png --window 512 --overlap 128 --flips all --out runs/pictures
"""


def _arguments(argv):
    parser = cli.parser(__doc__, EXAMPLES)
    parser.add_argument("model", type=Path, metavar="MODEL", help=".keras, .tflite or .onnx file")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="JPEG, PNG, ...")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="gets NAME.png and NAME_overlay.png")
    parser.add_argument("--opacity", type=float, default=0.5, help="of the overlay's colours, 0..1; default: 0.5")
    cli.add_prediction(parser)
    return parser.parse_args(argv)


@cli.command
def main(argv=None):
    """Write an index PNG with the palette in it and an overlay for each image."""
    args = _arguments(argv)
    cli.load_keras()
    from kseg import evaluation
    from kseg.data.files import read_image
    from kseg.errors import InputError
    from kseg.evaluation import pictures

    stems = [path.stem for path in args.images]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise InputError(f"images with the same name would overwrite each other's result: {', '.join(twice)}")
    predictor = evaluation.load_predictor(args.model, **cli.prediction(args))
    args.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for path in cli.progress(args.images, "Predicting"):
        try:
            image = read_image(path)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        mask = predictor.indices(image[None])[0]
        pictures.save_index_mask(mask, predictor.labels, args.out / f"{path.stem}.png")
        pictures.save_overlay(image, mask, predictor.labels, args.out / f"{path.stem}_overlay.png", args.opacity)
    print(f"{len(args.images) - failed} of {len(args.images)} images labelled: {args.out}")
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
