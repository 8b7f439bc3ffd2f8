"""Score a network on labelled images: .keras, .tflite and .onnx alike."""

import itertools
import sys
from pathlib import Path

from kseg import cli
from kseg.errors import need

EXAMPLES = """
python tools/evaluate.py runs/nuclei/best.keras --data nuclei --split val
python tools/evaluate.py fcn.tflite --data DIR --split val --json scores.json --pictures runs/errors
python tools/evaluate.py fcn.keras --data DIR --flips horizontal --scales 0.75,1,1.25
python tools/evaluate.py unet.tflite --data DIR --window 256 --overlap 64 --boundaries membrane
"""


def _arguments(argv):
    parser = cli.parser(__doc__, EXAMPLES)
    parser.add_argument("model", type=Path, metavar="MODEL", help=".keras, .tflite or .onnx file")
    parser.add_argument("--data", required=True, help="folder of images and masks, 'nuclei' (bundled) or 'tfds:NAME'")
    parser.add_argument("--split", default="val", help="default: val; 'all' for a folder without splits")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores here")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write panels and charts here")
    parser.add_argument("--boundaries", metavar="CLASS", help="score the regions that this class separates: ISBI 2012")
    cli.add_skip_bad(parser)
    cli.add_prediction(parser)
    return parser.parse_args(argv)


@cli.command
def main(argv=None):
    """Evaluate, print the table, and write what was asked for."""
    args = _arguments(argv)
    cli.load_keras()
    from kseg import data, evaluation
    from kseg.evaluation import pictures

    if args.json:
        cli.check_file(args.json)
    if args.pictures:
        need("matplotlib", "plots")
        cli.check_output(args.pictures)
    predictor = evaluation.load_predictor(args.model, **cli.prediction(args))
    source = data.open_source(args.data, args.split)
    if args.skip_bad:
        source = data.checked(source, skip_bad=True)
    labels = source.labels
    if note := evaluation.check_classes(predictor.labels, labels):
        print(f"{args.data}: {note}; scores are under the data's names")
    panels, charts = [], []
    if args.pictures:
        panels = [args.pictures / f"{name}.png" for name in pictures.panel_names(source.names)]
        charts = [args.pictures / "iou_per_class.png", args.pictures / "confusion_matrix.png"]
        cli.check_apart([*panels, *charts], itertools.chain(*map(source.files, range(len(source)))))
        args.pictures.mkdir(parents=True, exist_ok=True)
    unwritten = iter(panels)

    def on_image(image, label, prediction):
        if args.pictures:
            pictures.save_panel(image, label, prediction, labels, next(unwritten))

    def batches():
        return cli.progress(data.evaluation_batches(source), "Evaluating", total=len(source.names))

    regions = None
    with data.naming_bad_files(source):
        if args.boundaries:
            regions = evaluation.evaluate_boundaries(predictor, batches(), labels, args.boundaries)
        scores = evaluation.evaluate(predictor, batches(), labels, on_image)
    try:  # before anything is printed, which a closed pipe may end
        if args.json:
            cli.write_json(scores.to_dict() | ({"boundaries": regions.to_dict()} if regions else {}), args.json)
        if args.pictures:
            pictures.save_iou_chart(scores, labels, charts[0])
            pictures.save_confusion_chart(scores, labels, charts[1])
    finally:  # a full disk shall not cost the scores
        cli.print_scores(scores, f"{args.model} on {args.data} {args.split} ({scores.images} images)")
    if regions:
        cli.print_boundaries(regions, args.boundaries)
    if args.pictures:
        print(f"Pictures: {args.pictures}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
