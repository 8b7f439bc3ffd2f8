"""Image and mask files packed into a few TFRecord files, for file systems on which many small files are slow.

A folder of shards holds `labels.json`, `SPLIT-00000-of-00012.tfrecord`, ... and, written last, `SPLIT.shards.json`: for
each sample its name, shard, offset, length and checksum, so that samples are read in any order. The records are
tf.train.Example with the files' own bytes under the names that DeepLab's data sets use, and any reader of TFRecord
files understands them.
"""

import json
import zlib
from itertools import islice
from pathlib import Path

from kseg.data.backend import tensorflow
from kseg.data.files import read_image, read_mask
from kseg.data.sources import Source
from kseg.errors import InputError
from kseg.files import replacing
from kseg.labels import LabelSet

_IMAGE, _MASK, _NAME = "image/encoded", "image/segmentation/class/encoded", "image/filename"
_HEAD, _TAIL = 12, 4  # bytes around a record's content: its length with a checksum, and its own checksum
_SUFFIX = ".shards.json"


class ShardSource(Source):
    """Samples in the shards that `write_shards` made.

    Args:
        path: folder of the shards.
        split: "train", "val", ...; None or "all" for images without splits.
    Raises:
        InputError: no finished shards of this split, a damaged index, or a shard is missing or has another size.
    """

    def __init__(self, path, split=None):
        path = Path(path)
        self.labels = LabelSet.load(path / "labels.json")
        index = index_path(path, split)
        if not index.is_file():
            known = sorted(p.name.removesuffix(_SUFFIX) for p in path.glob(f"*{_SUFFIX}"))
            raise InputError(f"{index}: no such split; there are: {', '.join(known)}")
        try:
            fields = json.loads(index.read_text(encoding="utf-8"))
            self.names = tuple(fields["names"])
            self._places = tuple(tuple(map(int, place)) for place in fields["places"])
            self._shards = tuple(str(path / name) for name in fields["shards"])
            sizes = dict(zip(self._shards, fields["sizes"], strict=True))
            if len(self.names) != len(self._places):
                raise ValueError("as many names as places are wanted")
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{index}: damaged; write the shards anew ({error})") from error
        for shard, size in sizes.items():
            found = Path(shard).stat().st_size if Path(shard).is_file() else None
            if found != size:
                state = "missing" if found is None else f"damaged: {found} bytes instead of {size}"
                raise InputError(f"{shard}: {state}; write the shards anew")

    def load_image(self, index):
        return self._image(index, self._record(index))

    def load_label(self, index):
        return self._mask(index, self._record(index))

    def load(self, index):
        record = self._record(index)  # both in one access
        image, (label, _) = self._image(index, record), self._mask(index, record)
        if image.shape[:2] != label.shape:
            raise InputError(self.size_message(index, image.shape, label.shape))
        return image, label

    def files(self, index):
        where = f"{self._shards[self._places[index][0]]} {self.names[index]}"
        return where, f"{where} (mask)"

    def fingerprint(self, index):
        return f"{self.files(index)[0]} {self._places[index]} {self.labels.to_dict()}"

    def _image(self, index, record):
        return read_image(self.files(index)[0], record[_IMAGE].bytes_list.value[0])

    def _mask(self, index, record):
        return read_mask(self.files(index)[1], self.labels, record[_MASK].bytes_list.value[0])

    def _record(self, index):
        """The features of a sample."""
        shard, offset, length, checksum = self._places[index]
        try:
            with open(self._shards[shard], "rb") as file:
                file.seek(offset + _HEAD)
                content = file.read(length)
        except OSError as error:
            raise InputError(f"{self.files(index)[0]}: cannot be read ({error.strerror})") from error
        if zlib.crc32(content) != checksum:
            raise InputError(f"{self.files(index)[0]}: damaged (wrong checksum); write the shards anew")
        return tensorflow().train.Example.FromString(content).features.feature


def index_path(folder, split):
    """The file that tells where the samples of a split lie."""
    return Path(folder) / f"{split or 'all'}{_SUFFIX}"


def write_shards(source, folder, split, shards, progress=iter):
    """Pack the image and mask files of a source, unchanged, into TFRecord files.

    A shard appears under its name when it is whole, and the index when all are; so a killed call leaves nothing that
    could be taken for finished, and one that fails leaves nothing.

    Args:
        source: a source of files.
        folder: where to; made if need be. It may hold other splits with the same labels.
        split: name that the split shall have, or None.
        shards: number of files; consecutive samples share one.
        progress: function that wraps the iterator over the samples.
    Returns:
        Path of the index.
    Raises:
        InputError: the split is there already or its name would mean a part or a sum, the folder holds images, the
            labels differ, a file is missing, a source without files, or no space is left.
        ValueError: `shards` is not in 1 .. number of samples.
    """
    folder, count, split = Path(folder), len(source), split or "all"
    if not 1 <= shards <= count:
        raise ValueError(f"`shards` must be in 1 .. {count}, the number of samples. Received: {shards}")
    made = _prepare(source, folder, split)
    names = [f"{split}-{number:05d}-of-{shards:05d}.tfrecord" for number in range(shards)]
    samples = iter(progress(range(count)))
    places = []
    try:
        for number, name in enumerate(names):
            size = count * (number + 1) // shards - count * number // shards
            places += _write_shard(source, islice(samples, size), folder / name, number)
            made.append(folder / name)
        next(samples, None)  # lets a progress bar see its end
        fields = {
            "shards": names,
            "sizes": [(folder / name).stat().st_size for name in names],
            "names": source.names,
            "places": places,
        }
        with replacing(index_path(folder, split)) as temporary:
            temporary.write_text(json.dumps(fields), encoding="utf-8")
    except BaseException:
        for file in made:
            file.unlink(missing_ok=True)
        raise
    return index_path(folder, split)


def _write_shard(source, samples, path, number):
    """Write some samples of a source as shard `number`; return the place of each."""
    places, offset = [], 0
    with replacing(path) as temporary:
        with tensorflow().io.TFRecordWriter(str(temporary)) as writer:
            for sample in samples:
                content = _example(source, sample)
                writer.write(content)
                places.append((number, offset, len(content), zlib.crc32(content)))
                offset += _HEAD + len(content) + _TAIL
        if temporary.stat().st_size != offset:
            raise RuntimeError(f"{temporary}: {temporary.stat().st_size} bytes written instead of {offset}")
    return places


def _prepare(source, folder, split):
    """Make the folder with labels.json, or refuse it; the list of the files that were made."""
    if set(split) & set("[]+/"):
        raise InputError(f"shards cannot have the name {split!r}; choose a plain one, such as train (--name)")
    if any((folder / name).is_dir() for name in ("images", "JPEGImages")):
        raise InputError(f"{folder}: holds images, which shards beside them would hide; choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: no folder can be made here ({error.strerror})") from error
    if index_path(folder, split).exists() or any(folder.glob(f"{split}-[0-9]*-of-*.tfrecord")):
        raise InputError(
            f"{folder}: holds shards of {split!r} already, perhaps of an interrupted run; "
            "remove them, or choose another folder"
        )
    labels = folder / "labels.json"
    if not labels.exists():
        with replacing(labels) as temporary:
            source.labels.save(temporary)
        return [labels]
    if LabelSet.load(labels) != source.labels:
        raise InputError(f"{labels}: other labels than those of the data; choose another folder")
    return []


def _example(source, index):
    """A sample as a serialised tf.train.Example."""
    train = tensorflow().train
    contents = []
    for file in source.files(index):
        try:
            contents.append(Path(file).read_bytes())
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror}); shards are made of image files") from error
    values = dict(zip((_IMAGE, _MASK), contents, strict=True)) | {_NAME: source.names[index].encode()}
    feature = {key: train.Feature(bytes_list=train.BytesList(value=[value])) for key, value in values.items()}
    return train.Example(features=train.Features(feature=feature)).SerializeToString(deterministic=True)
