"""Folder layouts -> sources, and what a user types on a command line -> a source."""

import shlex
import unicodedata
from collections import defaultdict
from functools import partial
from pathlib import Path

from kseg.data.files import IMAGE_SUFFIXES, images_in, is_visible
from kseg.data.shards import ShardSource
from kseg.data.sources import FileSource
from kseg.data.splits import PARTS, open_split
from kseg.errors import InputError
from kseg.files import read_text
from kseg.labels import LabelSet, voc_colour

_MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".pgm", ".ppm", ".jpg", ".jpeg")
_BUNDLED = Path(__file__).parent / "bundled"
_VOC_LISTS = Path("ImageSets", "Segmentation")
_VOC_MASK = (".png",)

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

        return open_split(split, partial(TFDS, spec.removeprefix("tfds:")))
    return open_split(split, partial(_open_whole, spec))


def _open_whole(spec, split):
    if spec == "nuclei":
        return nuclei(split)
    path = _existing(spec)
    if (path / "JPEGImages").is_dir():
        return voc(path, split)
    if _shards(path):
        return ShardSource(path, split)
    if (path / "labels.json").is_file() or (path / "images").is_dir():
        return folder(path, split)
    raise InputError(f"{spec}: neither labels.json, images/ and masks/ nor the JPEGImages/ of Pascal VOC are in it")


def plain_images(spec):
    """Paths of the images without masks that lie in a folder, or in images/ inside it; none where there are masks."""
    path = Path(str(spec))
    layouts = [path / name for name in ("labels.json", "masks", "JPEGImages")]
    if spec == "nuclei" or not path.is_dir() or any(part.exists() for part in layouts) or _shards(path):
        return []
    return images_in(path / "images" if (path / "images").is_dir() else path)


def split_names(spec):
    """The splits of what a user names, as `open_source` takes them; [None] for images without splits.

    Raises:
        InputError: no such folder, no list in one of VOC's layout, or a data set of TFDS, whose splits its page names.
    """
    spec = str(spec)
    if spec.startswith("tfds:"):
        raise InputError(f"{spec}: name the splits, such as --splits train")
    path = _BUNDLED / "nuclei" if spec == "nuclei" else _existing(spec)
    if (path / "JPEGImages").is_dir():
        return sorted(_voc_lists(path))
    return _shards(path) or _splits_of(path / "images") or [None]


def mask_files(spec):
    """Paths of all masks in a folder of either layout that belong to a split of it.

    Raises:
        InputError: no such folder, or no masks in it.
    """
    path = _existing(str(spec))
    if (path / "JPEGImages").is_dir():
        wanted = {stem for file in _voc_lists(path).values() for stem in _stems(file)}
        masks = _by_stem(path / "SegmentationClass", _VOC_MASK)
        found = [masks[stem] for stem in sorted(wanted) if stem in masks]
    else:
        levels = [path / "masks" / name for name in _splits_of(path / "masks")] or [path / "masks"]
        found = [file for level in levels for _, file in sorted(_by_stem(level, _MASK_SUFFIXES).items())]
    if not found:
        raise InputError(
            f"{path}: no masks in it. Wanted: images/NAME.jpg and masks/NAME.png, or images/train/NAME.jpg, "
            "masks/train/NAME.png, ...; folders may be links (ln -s)"
        )
    return found


def unused_images(spec):
    """What no split of a folder holds: {path: why}, images beside the folders of the splits and folders without images.

    A split that lacks images is found when it is opened.
    """
    images = Path(str(spec)) / "images"
    if spec == "nuclei" or not images.is_dir() or not (splits := _splits_of(images)):
        return {}
    beside = {str(file): "lies beside the folders of the splits" for file in images_in(images)}
    others = sorted(folder for folder in images.iterdir() if folder.is_dir() and folder.name not in splits)
    return beside | {str(folder): "holds no images" for folder in others if not folder.name.startswith(".")}


def _shards(path):
    """The splits in a folder of shards."""
    return sorted(file.name.removesuffix(".shards.json") for file in path.glob("*.shards.json"))


def _existing(spec):
    if not Path(spec).is_dir():
        missing = "is a file" if Path(spec).exists() else "no such folder"
        raise InputError(f'{spec}: {missing} (wanted: a folder of images and masks, "tfds:NAME" or "nuclei")')
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
        path: the folder. An image and its mask have the same name up to the suffix, or all masks' names end in the
            same way more than those of their images: cat.jpg, cat_mask.png (behind one of "_-. ").
        split: name of the folder inside images/ and masks/; None or "all" if there is no such level; or parts and sums
            of such, see `open_source`.
    Raises:
        InputError: no such folder, labels or split; no image in it; or two files of one name. What is wrong with
            single pairs, such as a missing mask, is left to `scan`.
    """
    if set(split or "") & PARTS:
        return open_split(split, partial(folder, path))
    path = Path(path)
    if not (path / "labels.json").is_file():
        command = f"python tools/check.py {shlex.quote(str(path))} --propose"
        raise InputError(f"{path / 'labels.json'}: no such file; `{command}` guesses one from what the masks hold")
    labels = LabelSet.load(path / "labels.json")
    images_folder = _split_folder(path / "images", split)
    masks_folder = path / "masks" / images_folder.relative_to(path / "images")
    images = _by_stem(images_folder, IMAGE_SUFFIXES)
    masks = _named_as(images, _by_stem(masks_folder, _MASK_SUFFIXES))
    if not images:
        deeper = any(path.is_dir() and images_in(path) for path in images_folder.iterdir())
        hint = "; those in its folders do not count, let all lie in it" if deeper else ""
        raise InputError(f"{images_folder}: no images in it{hint}")
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
    lists = _voc_lists(path)
    file = path / _VOC_LISTS / f"{split}.txt"
    if split not in lists:
        raise InputError(f"{file}: no such split; {_listed(sorted(lists))}")
    if labels is None:
        given = path / "labels.json"
        labels = LabelSet.load(given) if given.is_file() else _voc_labels()
    stems = _stems(file)
    twice = sorted({stem for stem in stems if stems.count(stem) > 1}) if len(set(stems)) < len(stems) else []
    if twice:
        raise InputError(f"{file}: names that it holds twice: {', '.join(twice[:5])}")
    if not stems:
        raise InputError(f"{file}: an empty split")
    images = _in_order(stems, path / "JPEGImages", IMAGE_SUFFIXES, ".jpg")
    return FileSource(labels, images, _in_order(stems, path / "SegmentationClass", _VOC_MASK, ".png"))


def _voc_lists(path):
    """Split -> file that lists its names."""
    found = {file.stem: file for file in (path / _VOC_LISTS).glob("*.txt")}
    if not found:
        raise InputError(f"{path / _VOC_LISTS}: no lists in it, such as train.txt with the name of an image a line")
    return found


def _stems(file):
    return [_nfc(line.split()[0]) for line in read_text(file).splitlines() if line.strip()]


def _nfc(name):
    return unicodedata.normalize("NFC", name)  # é is one letter or two


def _voc_labels():
    return LabelSet(_VOC_NAMES, [voc_colour(i) for i in range(len(_VOC_NAMES))], ignore=255)


def _in_order(stems, folder, suffixes, default):
    """Paths of the files of these names, made up with the suffix `default` where there are none: `scan` tells."""
    found = _by_stem(folder, suffixes)
    return [found.get(stem, folder / f"{stem}{default}") for stem in stems]


def _split_folder(images, split):
    """The folder of a split's images, or an error that lists the splits which exist."""
    if not images.is_dir():
        raise InputError(f"{images}: no such folder")
    known = _splits_of(images)
    if split is not None and (split != "all" or "all" in known):  # a folder may be called all
        elsewhere = Path(split).is_absolute() or ".." in Path(split).parts
        if elsewhere or not (images / split).is_dir():
            raise InputError(f"{images / split}: no such split; {_listed(known)}")
        return images / split
    if known and not _by_stem(images, IMAGE_SUFFIXES):
        raise InputError(f"{images}: choose a split; {_listed(known)}")
    return images


def _splits_of(folder):
    """Names of the folders in images/ or masks/ that hold any."""
    inside = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted(path.name for path in inside if not path.name.startswith(".") and images_in(path))


def _listed(known):
    if not known:
        return 'the images have no splits: choose "all", or parts such as "all[:80%]" and "all[80%:]"'
    return f'there are: {", ".join(known)}; a part of one is "{known[0]}[:80%]"'


def _named_as(images, masks):
    """Masks by the names of their images, which may lack what all names of masks end in."""
    for mask in [] if set(images) & set(masks) else sorted(masks)[:20]:  # the first may have no image
        # The longest first: of cat.png and cat_b.png, cat_b_mask.png is the latter's.
        for image in sorted(filter(mask.startswith, images), key=len, reverse=True):
            ending = mask.removeprefix(image)
            if ending[0] in "_-. " and all(name.endswith(ending) for name in masks):
                return {name.removesuffix(ending): path for name, path in masks.items()}
    return masks


def _by_stem(folder, suffixes):
    """File name without suffix -> path, for the files of these kinds.

    Raises:
        InputError: two files differ in the suffix only, or the name of one is no text (not UTF-8).
    """
    found = defaultdict(list)
    for path in folder.iterdir() if folder.is_dir() else ():
        if is_visible(path, suffixes):
            if path.name.encode(errors="ignore").decode() != path.name:
                raise InputError(f"{folder}: holds a file whose name is not UTF-8: {path.name!a}; rename it")
            found[_nfc(path.stem)].append(path)
    twice = sorted(sorted(path.name for path in paths) for paths in found.values() if len(paths) > 1)
    if twice:
        pairs = "; ".join(", ".join(names) for names in twice[:5])
        raise InputError(f"{folder}: files that differ in the suffix only: {pairs}")
    return {stem: paths[0] for stem, paths in found.items()}
