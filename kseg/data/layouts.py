"""Folder layouts -> sources, and what a user types on a command line -> a source."""

import shlex
from collections import defaultdict
from functools import partial
from pathlib import Path

from kseg.data.files import IMAGE_SUFFIXES
from kseg.data.shards import ShardSource
from kseg.data.sources import FileSource
from kseg.data.splits import open_split
from kseg.errors import InputError
from kseg.files import read_text
from kseg.labels import LabelSet, voc_colour

_MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".pgm", ".ppm", ".jpg", ".jpeg")
_BUNDLED = Path(__file__).parent / "bundled"
_FLAT = (None, "all")

# fmt: off
_VOC_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on


def open_source(spec, split=None):
    """The source that a user names.

    Args:
        spec: a folder with labels.json (see `folder`), with JPEGImages (see `voc`) or with shards (see `ShardSource`),
            "tfds:NAME" (see `TFDS`), or "nuclei", the images that come with the package. (A folder called nuclei is
            ./nuclei.)
        split: "train", "val", ...; None or "all" for a folder whose images are not divided into splits. Parts and
            sums are written as in TensorFlow Datasets: "all[:80%]", "train[100:200]", "val+train[80%:]"; see
            `open_split`.
    Raises:
        InputError: no such folder or split, a split without images, or a folder of another layout.
    """
    spec = str(spec)
    if spec.startswith("tfds:"):
        from kseg.data.tfds import TFDS  # it needs an optional dependency

        return TFDS(spec.removeprefix("tfds:"), split)
    return open_split(split, partial(_open_whole, spec))


def _open_whole(spec, split):
    if spec == "nuclei":
        return nuclei(split)
    path = _existing(spec)
    if (path / "JPEGImages").is_dir():
        return voc(path, split)
    if any(path.glob("*.shards.json")):
        return ShardSource(path, split)
    if (path / "labels.json").is_file() or (path / "images").is_dir():
        return folder(path, split)
    raise InputError(f"{spec}: neither labels.json, images/ and masks/ nor the JPEGImages/ of Pascal VOC are in it")


def plain_images(spec):
    """Paths of the images that lie in a folder without masks or labels; none for all else."""
    path = Path(str(spec))
    if spec == "nuclei" or not path.is_dir() or (path / "labels.json").exists():
        return []
    return sorted(file for file in path.iterdir() if _is_wanted(file, IMAGE_SUFFIXES))


def split_names(spec):
    """The splits of what a user names, as `open_source` takes them; [None] for images without splits.

    Raises:
        InputError: no such folder, one of another layout, or a data set of TFDS, whose splits its page names.
    """
    spec = str(spec)
    if spec.startswith("tfds:"):
        raise InputError(f"{spec}: name the splits, such as --splits train")
    path = _BUNDLED / "nuclei" if spec == "nuclei" else _existing(spec)
    if (path / "JPEGImages").is_dir():
        return sorted(file.stem for file in (path / "ImageSets" / "Segmentation").glob("*.txt"))
    if shards := sorted(file.name.removesuffix(".shards.json") for file in path.glob("*.shards.json")):
        return shards
    return _splits_of(path / "images") or [None]


def mask_files(spec):
    """Paths of all masks in a folder of either layout, whatever split they belong to.

    Raises:
        InputError: no such folder, or no masks in it.
    """
    path = _existing(str(spec))
    folder = path / ("SegmentationClass" if (path / "JPEGImages").is_dir() else "masks")
    found = sorted(file for file in folder.rglob("*") if _is_wanted(file, _MASK_SUFFIXES))
    if not found:
        raise InputError(f"{folder}: no masks in it")
    return found


def _existing(spec):
    if not Path(spec).is_dir():
        raise InputError(f'{spec}: no such folder (--data takes a folder, "tfds:NAME" or "nuclei")')
    return Path(spec)


def nuclei(split="train"):
    """Microscope images of cell nuclei that come with the package: BBBC038 (Caicedo et al. 2019), CC0.

    Args:
        split: "train" or "val".
    """
    return folder(_BUNDLED / "nuclei", split)


def folder(path, split=None):
    """Source of a folder with `labels.json`, `images/[SPLIT/]NAME.*` and `masks/[SPLIT/]NAME.png`.

    Args:
        path: the folder. An image and its mask have the same name up to the suffix.
        split: name of the folder inside images/ and masks/; None or "all" if there is no such level.
    Raises:
        InputError: no such folder, labels or split; no image in it; or two files of one name. What is wrong with
            single pairs, such as a missing mask, is left to `scan`.
    """
    path = Path(path)
    if not (path / "labels.json").is_file():
        command = f"python tools/check.py {shlex.quote(str(path))} --propose"
        raise InputError(f"{path / 'labels.json'}: no such file; `{command}` guesses one from what the masks hold")
    labels = LabelSet.load(path / "labels.json")
    images = _by_stem(_split_folder(path / "images", split), IMAGE_SUFFIXES)
    level = "" if split in _FLAT else split
    masks_folder = path / "masks" / level
    masks = _by_stem(masks_folder, _MASK_SUFFIXES) if masks_folder.is_dir() else {}
    if not images:
        raise InputError(f"{path / 'images' / level}: no images in it")
    stems = sorted(images)
    orphans = [(str(masks[stem]), "mask without an image") for stem in sorted(set(masks) - set(images))]
    wanted = [masks.get(stem, masks_folder / f"{stem}.png") for stem in stems]
    return FileSource(labels, [images[stem] for stem in stems], wanted, orphans)


def voc(path, split, labels=None):
    """Source of the Pascal VOC layout: JPEGImages, SegmentationClass, ImageSets/Segmentation/SPLIT.txt.

    Args:
        path: the folder that holds these three, such as VOCdevkit/VOC2012.
        split: name of the list, such as "train", "val" or "trainval".
        labels: LabelSet; if None, labels.json in `path` where there is one, else VOC's 20 classes and background,
            with 255 for unlabelled pixels, in palette files.
    Raises:
        InputError: no such folder or list, an empty list, or a name that it holds twice.
    """
    path = Path(path)
    lists = path / "ImageSets" / "Segmentation"
    file = lists / f"{split}.txt"
    if not file.is_file():
        known = sorted(p.stem for p in lists.glob("*.txt")) if lists.is_dir() else []
        raise InputError(f"{file}: no such split; {_listed(known)}")
    if labels is None:
        given = path / "labels.json"
        labels = LabelSet.load(given) if given.is_file() else _voc_labels()
    stems = [line.split()[0] for line in read_text(file).splitlines() if line.strip()]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1}) if len(set(stems)) < len(stems) else []
    if twice:
        raise InputError(f"{file}: names that it holds twice: {', '.join(twice[:5])}")
    if not stems:
        raise InputError(f"{file}: an empty split")
    found = _by_stem(path / "JPEGImages", IMAGE_SUFFIXES)
    images = [found.get(stem, path / "JPEGImages" / f"{stem}.jpg") for stem in stems]
    return FileSource(labels, images, [path / "SegmentationClass" / f"{stem}.png" for stem in stems])


def _voc_labels():
    return LabelSet(_VOC_NAMES, [voc_colour(i) for i in range(len(_VOC_NAMES))], ignore=255)


def _split_folder(images, split):
    """The folder of a split's images, or an error that lists the splits which exist."""
    if not images.is_dir():
        raise InputError(f"{images}: no such folder")
    known = _splits_of(images)
    if split not in _FLAT:
        if not (images / split).is_dir():
            raise InputError(f"{images / split}: no such split; {_listed(known)}")
        return images / split
    if known and not _by_stem(images, IMAGE_SUFFIXES):
        raise InputError(f"{images}: choose a split; {_listed(known)}")
    return images


def _splits_of(images):
    return sorted(path.name for path in images.iterdir() if path.is_dir()) if images.is_dir() else []


def _is_wanted(path, suffixes):
    return path.suffix.lower() in suffixes and not path.name.startswith(".")


def _listed(known):
    return f"there are: {', '.join(known)}" if known else 'the images have no splits (choose "all")'


def _by_stem(folder, suffixes):
    """File name without suffix -> path, for the files of these kinds.

    Raises:
        InputError: two files differ in the suffix only, or the name of one is no text (not UTF-8).
    """
    found = defaultdict(list)
    for path in folder.iterdir() if folder.is_dir() else ():
        if _is_wanted(path, suffixes):
            if path.name.encode(errors="ignore").decode() != path.name:
                raise InputError(f"{folder}: holds a file whose name is not UTF-8: {path.name!a}; rename it")
            found[path.stem].append(path)
    twice = sorted(sorted(path.name for path in paths) for paths in found.values() if len(paths) > 1)
    if twice:
        pairs = "; ".join(", ".join(names) for names in twice[:5])
        raise InputError(f"{folder}: files that differ in the suffix only: {pairs}")
    return {stem: paths[0] for stem, paths in found.items()}
