"""Find the smallest or fastest TFLite file that loses no more mean IoU than you allow."""

import sys
from pathlib import Path

from kseg import cli
from kseg.errors import InputError, need

EXAMPLES = """
python tools/quantize.py runs/nuclei/best.keras --data nuclei --max-miou-drop 0.005 --out runs/quantized
python tools/quantize.py best.keras --data my_images --size 360 480 --target latency --out runs/quantized
"""


def _arguments(argv):
    parser = cli.parser(__doc__, EXAMPLES)
    parser.add_argument("model", type=Path, metavar="MODEL.keras")
    parser.add_argument("--data", required=True, help="labelled images of the network's classes")
    parser.add_argument(
        "--splits", nargs=2, default=("train", "val"), metavar=("CALIBRATE", "SCORE"), help="default: train val"
    )
    parser.add_argument("--max-miou-drop", type=float, default=0.005, help="0..1; default: 0.005")
    parser.add_argument(
        "--target", default="size", choices=("size", "latency"), help="what to keep small; default: size"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="gets the file, tables and pictures")
    parser.add_argument("--size", nargs=2, type=int, metavar=("H", "W"), help="default: the first image to score with")
    parser.add_argument("--images", type=int, default=32, help="calibrate and score with at most so many; default: 32")
    cli.add_skip_bad(parser)
    return parser.parse_args(argv)


@cli.command
def main(argv=None):
    """Try, measure, tell, and keep the best."""
    args = _arguments(argv)
    cli.load_keras()
    from kseg import data, evaluation, export, training
    from kseg.evaluation import pictures
    from kseg.export import budget, scoring, sensitivity

    budget.check_budget(args.max_miou_drop, args.target)
    cli.check_output(args.out)
    cli.check_images(args.images)
    need("matplotlib", "plots")
    model, labels = training.load_model(args.model)
    source = data.open_source(args.data, args.splits[1])
    if args.skip_bad:
        source = data.checked(source, skip_bad=True)
    if other := evaluation.check_classes(labels, source.labels):
        raise InputError(f"{args.data}: {other}")
    calibration = export.calibrate(args.data, args.splits[0], args.images, args.skip_bad)
    pairs = scoring.pairs_to_score(source, calibration, args.images)
    size_px = tuple(args.size) if args.size else model.inputs[0].shape[1:3]
    size_px = pairs[0][0].shape[:2] if None in size_px else size_px
    found = export.search(model, labels, size_px, calibration, pairs, args.target, cli.progress)
    print(f"{args.model}: mean IoU {found.mean_iou:.4f} at {size_px[0]}x{size_px[1]} on {len(pairs)} images")
    cli.print_table(*found.table())
    for name, why in found.skipped.items():
        print(f"{name}: left out, {why}")
    cli.print_table(*sensitivity.table(found.costs))
    args.out.mkdir(parents=True, exist_ok=True)
    given = {"max_drop": args.max_miou_drop, "target": args.target, "size_px": size_px}
    tables = {"model": str(args.model), "data": f"{args.data} {args.splits[1]}", "images": len(pairs), **given}
    cli.write_json(tables | {"best": None} | found.to_dict(), args.out / "quantized.json")
    pictures.save_trade_off_chart(found.candidates, found.mean_iou, args.max_miou_drop, args.out / "trade_off.png")
    pictures.save_sensitivity_chart(found.costs, args.out / "sensitivity.png")
    print(f"Tables and pictures: {args.out}/quantized.json trade_off.png sensitivity.png")
    given |= {"calibration": calibration, "pairs": pairs, "data": tables["data"], "tell": print}
    path = args.out / f"{args.model.stem}_quantized.tflite"
    best, _ = export.export_best(model, labels, found, path, **given)
    cli.write_json(tables | {"best": best.name} | found.to_dict(), args.out / "quantized.json")
    print(f"{path}: {best.name}, {path.stat().st_size / 1e6:.3f} MB, mean IoU {-best.mean_iou_drop:+.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
