"""Label every pixel of your images; any size, any network file."""

import sys
from collections import Counter
from pathlib import Path

from kseg import cli

EXAMPLES = """
python tools/predict.py exported/nuclei_unet_int8.tflite photo.jpg
python tools/predict.py unet.tflite holiday/ more/*.png --out runs/pictures
python tools/predict.py unet.tflite slide.png --window 512 --overlap 128 --flips all --out runs/pictures
"""


def _arguments(argv):
    parser = cli.parser(__doc__, EXAMPLES)
    parser.add_argument("model", type=Path, metavar="MODEL", help=".keras, .tflite or .onnx file")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="JPEG, PNG, ..., or a folder of them")
    outputs = "folder for NAME.png (classes), NAME_overlay.png; default: runs/pictures"
    parser.add_argument("--out", default=Path("runs/pictures"), type=Path, metavar="DIR", help=outputs)
    parser.add_argument("--opacity", type=float, default=0.5, help="of the overlay's colours, 0..1; default: 0.5")
    cli.add_prediction(parser)
    return parser.parse_args(argv)


@cli.command
def main(argv=None):
    """Write an index PNG with the palette in it and an overlay for each image."""
    args = _arguments(argv)
    if args.model.suffix == ".keras":  # Keras takes seconds to import, and exported files need none
        cli.load_keras()
    from kseg import evaluation
    from kseg.data.files import image_files, read_image
    from kseg.errors import CheckError, InputError
    from kseg.evaluation import pictures

    cli.check_output(args.out)
    images = image_files(args.images)
    outputs = _outputs(images, args.out)
    if not 0 <= args.opacity <= 1:
        raise InputError(f"--opacity must be in 0..1. Received: {args.opacity}")
    predictor = evaluation.load_predictor(args.model, **cli.prediction(args))
    args.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for path, (mask_path, overlay_path) in cli.progress(outputs.items(), "Predicting", total=len(outputs)):
        try:
            image = read_image(path)
            mask = _mask(predictor, image, path)
        except (InputError, CheckError) as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        pictures.save_overlay(image, mask, predictor.labels, overlay_path, args.opacity)
        pictures.save_index_mask(mask, predictor.labels, mask_path)  # last: one without its overlay is not ours
    print(f"{len(images) - failed} of {len(images)} images labelled: {args.out}")
    return 2 if failed else 0


def _mask(predictor, image, path):
    """The class of every pixel; an error names the image."""
    from kseg.errors import InputError

    try:
        return predictor.indices(image[None])[0]
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _outputs(images, folder):
    """Image -> (its mask's file, its overlay's file), none of them twice, and none that is not ours to overwrite."""
    from kseg.errors import InputError

    outputs = {path: (folder / f"{path.stem}.png", folder / f"{path.stem}_overlay.png") for path in images}
    names = Counter(file.name for path in images for file in outputs[path])
    if twice := sorted(name for name, times in names.items() if times > 1):
        raise InputError(f"results of several images would have the same name: {', '.join(twice)}")
    cli.check_apart([file for pair in outputs.values() for file in pair], images)
    # An earlier result has its overlay beside it; a mask alone was perhaps drawn by hand.
    if others := [str(mask) for mask, overlay in outputs.values() if mask.exists() and not overlay.exists()]:
        raise InputError(f"{', '.join(others[:5])}: is there and no earlier result; choose another --out")
    return outputs


if __name__ == "__main__":
    sys.exit(main())
