"""Look at images and masks before training: what is in them, and what is wrong."""

import itertools
import sys
from pathlib import Path

from kseg import cli
from kseg.errors import CheckError, InputError
from kseg.files import replacing

EXAMPLES = """
python tools/check.py my_images
python tools/check.py my_images --propose      (first writes my_images/labels.json, guessed from what the masks hold)
python tools/check.py my_images --picture samples.png
python tools/check.py tfds:oxford_iiit_pet --splits 'train[:10%]'
"""


def _arguments(argv):
    parser = cli.parser(__doc__, EXAMPLES)
    parser.add_argument("data", help="folder of images and masks, 'nuclei' (bundled) or 'tfds:NAME'")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="default: all that the folder has")
    parser.add_argument("--propose", action="store_true", help="guess labels.json; one that is there is not touched")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="draw some images of each split with their masks")
    parser.add_argument("--images", type=int, default=3, metavar="N", help="how many of each split; default: 3")
    return parser.parse_args(argv)


@cli.command
def main(argv=None):
    """Read every image and mask; tell how often each class occurs, and list all problems."""
    args = _arguments(argv)
    cli.check_images(args.images)
    if args.picture:
        cli.check_file(args.picture)
        if args.picture.suffix.lower() != ".png":
            raise InputError(f"--picture must end in .png. Received: {args.picture}")
    from kseg import data
    from kseg.evaluation import pictures

    if args.propose:
        _propose(Path(args.data), data)
    splits = args.splits or data.split_names(args.data)
    sources = {split or "all": data.open_source(args.data, split) for split in splits}
    if args.picture:
        files = [file for source in sources.values() for index in range(len(source)) for file in source.files(index)]
        cli.check_apart([args.picture], files)
    reports = {split: data.scan(source) for split, source in sources.items()}
    labels = next(iter(sources.values())).labels
    cli.print_classes(labels, reports)
    if absent := data.absent_classes(labels, next(iter(reports.values()))):
        print(absent)
    for path, why in ({} if args.splits else data.unused_images(args.data)).items():
        print(f"{path}: {why}, and is not used")
    for first, second in itertools.combinations(sources, 2):
        if known := data.shared(sources[first], sources[second]):
            print(f"Images of {second} that are in {first}, too: {known}. Scores on them say little about new images")
    problems = data.tell_problems(reports.values())
    if args.picture:
        good = [data.without(source, reports[split]) for split, source in sources.items()]
        samples = [sample for source in good for sample in data.spread(source, args.images)]
        pictures.save_samples(samples, labels, args.picture)
        print(f"{args.picture}: {len(samples)} images with their masks")
    if problems:
        raise CheckError(f"{problems}, listed above")
    print("All images and masks can be read, and fit each other")
    return 0


def _propose(folder, data):
    path = folder / "labels.json"
    if path.exists():
        raise InputError(f"{path}: is there already; move it away to have one guessed")
    labels = data.propose_labels(data.mask_files(folder), lambda masks: cli.progress(masks, "Reading masks"))
    with replacing(path) as temporary:
        labels.save(temporary)
    print(f"{path}: {len(labels)} classes guessed. Give them their names. One that means 'not labelled' is no class:")
    if labels.masks == "colour":
        print('take it out of names and colours, and write "ignore": [R, G, B], its colour.')
    elif labels.values:
        print('take it out of names, colours and values, and write "ignore": its number.')
    else:
        rest = ", ".join(map(str, range(1, len(labels)))) if len(labels) < 20 else f"1, 2, ... {len(labels) - 1}"
        print("take it out of names and colours, and write its number and those of the others: if it is the first,")
        print(f'"ignore": 0, "values": [{rest}]')


if __name__ == "__main__":
    sys.exit(main())
