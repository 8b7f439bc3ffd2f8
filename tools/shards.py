"""Pack images and masks into a few TFRecord files, which --data takes like a folder of images."""

import sys
from pathlib import Path

from kseg import cli

EXAMPLES = """
python tools/shards.py --data DIR --split train --out DIR2 --shards 12
python tools/shards.py --data DIR --split val --out DIR2 --shards 2
python tools/shards.py --data DIR --split 'all[:80%]' --name train --out DIR2
python tools/train.py nuclei_unet --data DIR2 --out runs/nuclei
"""


def _arguments(argv):
    parser = cli.parser(__doc__, EXAMPLES)
    parser.add_argument("--data", required=True, help="folder of images and masks, or 'nuclei' (bundled)")
    parser.add_argument("--split", default="train", help="'all' for images without splits; default: train")
    parser.add_argument("--name", help="name of the split in DIR2; default: as --split")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR2", help="folder for the shards")
    parser.add_argument("--shards", type=int, default=8, help="number of files, such as 100 MB each; default: 8")
    cli.add_skip_bad(parser)
    return parser.parse_args(argv)


@cli.command
def main(argv=None):
    """Write the shards of one split; nothing that is there is overwritten."""
    args = _arguments(argv)
    cli.load_keras()  # and TensorFlow with it
    from kseg import data
    from kseg.errors import InputError

    source = data.checked(data.open_source(args.data, args.split), args.skip_bad)
    if not 1 <= args.shards <= len(source):
        raise InputError(f"--shards must be in 1 .. {len(source)}, the number of images. Received: {args.shards}")
    name = args.name or args.split
    index = data.write_shards(
        source, args.out, name, args.shards, lambda samples: cli.progress(samples, "Packing", len(source))
    )
    size_mb = sum(path.stat().st_size for path in args.out.glob(f"{name}-*.tfrecord")) / 1e6
    print(f"{index}: {len(source)} images in {args.shards} shards, {size_mb:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
