"""TensorFlow Datasets -> a source."""

from dataclasses import dataclass

import numpy as np

from kseg.data.sources import Source
from kseg.errors import InputError, need
from kseg.labels import LabelSet, voc_colour


@dataclass(frozen=True)
class _Known:
    """How a builder of TFDS holds image and mask.

    Attributes:
        image_key, mask_key: names of the two features.
        offset: value of the first class in the mask.
        labels: LabelSet.
    """

    image_key: str
    mask_key: str
    offset: int
    labels: LabelSet


_KNOWN = {
    # Parkhi et al. 2012: trimaps of 1 (pet), 2 (background), 3 (the border between them, about five pixels wide).
    "oxford_iiit_pet": _Known(
        "image",
        "segmentation_mask",
        1,
        LabelSet(("pet", "background", "border"), ((255, 200, 0), (0, 0, 0), (255, 255, 255))),
    ),
}


class TFDS(Source):
    """Samples of a TensorFlow Datasets builder, read in any order (array_record files).

    Args:
        name: of the data set, such as "oxford_iiit_pet" or "oxford_iiit_pet:4.0.0", or a `tfds.core.DatasetBuilder`.
        split: such as "train", "test" or "train[:80%]".
        image_key, mask_key: the features that hold image and mask. None: those of a data set known here, or the
            only ones that can be meant.
        offset: value of the first class in the mask, subtracted from it; None: as known here, else 0. Values below
            it are unlabelled: they get the ignore index, if the label set has one.
        labels: LabelSet; None: as known here, or the names of the mask's feature (`tfds.features.LabeledImage`).
        data_dir: folder of TFDS; None: its own default.
        download: fetch and prepare the data set if it is not there yet.
    Raises:
        ImportError: tensorflow-datasets is not installed.
        InputError: no such data set or split, not prepared, no labels, or unclear which features are meant.
    """

    def __init__(
        self,
        name,
        split,
        *,
        image_key=None,
        mask_key=None,
        offset=None,
        labels=None,
        data_dir=None,
        download=False,
    ):
        builder = _builder(name, data_dir)
        features = builder.info.features
        known = _KNOWN.get(builder.name, _Known(None, None, 0, None))
        self._mask_key = mask_key or known.mask_key or _only_key(features, "mask", _is_mask, builder.name)
        self._image_key = image_key or known.image_key or _only_key(features, "image", _is_image, builder.name)
        for key in (self._image_key, self._mask_key):
            if key not in features:
                raise InputError(f"tfds:{builder.name}: no feature {key!r}; there are: {', '.join(features)}")
        self.labels = labels or known.labels or _named_labels(features[self._mask_key], builder.name)
        self._offset = known.offset if offset is None else offset
        self._samples = _samples(builder, split, download)
        self._version = f"{builder.info.full_name} {builder.data_dir}"
        self._where = f"tfds:{builder.name} {split}"
        width = len(str(len(self._samples)))
        self.names = tuple(f"{i:0{width}d}" for i in range(len(self._samples)))

    def load_image(self, index):
        return _rgb(np.asarray(self._samples[index][self._image_key]), self.files(index)[0])

    def load_label(self, index):
        return self._label(self._samples[index]), 0

    def load(self, index):
        sample = self._samples[index]  # decodes both: one access for the two
        image, label = _rgb(np.asarray(sample[self._image_key]), self.files(index)[0]), self._label(sample)
        if image.shape[:2] != label.shape:
            raise InputError(self.size_message(index, image.shape, label.shape))
        return image, label

    def files(self, index):
        sample = f"{self._where} {self.names[index]}"
        return f"{sample} {self._image_key}", f"{sample} {self._mask_key}"

    def fingerprint(self, index):
        return f"{self._version} {self.files(index)} {self._offset} {self.labels.ignore}"

    def _label(self, sample):
        mask = np.asarray(sample[self._mask_key])
        label = mask.reshape(mask.shape[:2]).astype(np.int32) - self._offset
        return label if self.labels.ignore is None else np.where(label < 0, np.int32(self.labels.ignore), label)


def _builder(name, data_dir):
    tfds = need("tensorflow_datasets", "data")
    if not isinstance(name, str):
        return name
    try:
        return tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except tfds.core.DatasetNotFoundError as error:
        raise InputError(f"tfds:{name}: TFDS {tfds.__version__} has no data set of this name") from error
    except (ValueError, AssertionError) as error:  # a version or configuration that does not exist
        raise InputError(f"tfds:{name}: {str(error).splitlines()[0]}") from error


def _samples(builder, split, download):
    """The builder's random access to `split`."""
    if split is None:
        raise InputError(f'tfds:{builder.name}: choose a split, such as "train"')
    if download:
        builder.download_and_prepare(file_format="array_record")
    try:
        return builder.as_data_source(split=split)
    except KeyError as error:
        raise InputError(
            f"tfds:{builder.name}: not prepared in {builder.data_dir}, or without a split {split!r}; "
            f"run: tfds build {builder.name} --file_format=array_record"
        ) from error
    except (NotImplementedError, ValueError) as error:
        known = ", ".join(builder.info.splits)
        raise InputError(
            f"tfds:{builder.name}: no random access to split {split!r} (splits: {known}); it needs the files of: "
            f"tfds build {builder.name} --file_format=array_record"
        ) from error


def _is_mask(key, feature):
    if len(feature.shape or ()) != 3:
        return False
    # A LabeledImage says that it is a mask; of plain images the name must.
    return hasattr(feature, "num_classes") or any(word in key for word in ("mask", "segment", "label", "annotation"))


def _is_image(key, feature):
    return len(feature.shape or ()) == 3 and not _is_mask(key, feature)


def _only_key(features, what, is_meant, name):
    keys = [key for key, feature in features.items() if is_meant(key, feature)]
    if len(keys) != 1:
        raise InputError(
            f"tfds:{name}: unclear which feature is the {what}; choose it with {what}_key in kseg.data.TFDS. "
            f"There are: {', '.join(features)}"
        )
    return keys[0]


def _named_labels(feature, name):
    names = getattr(feature, "names", None)
    if not names:
        raise InputError(f"tfds:{name}: its mask has no class names; give a LabelSet with labels= in kseg.data.TFDS")
    return LabelSet(tuple(names), tuple(voc_colour(i) for i in range(len(names))))


def _rgb(image, where):
    """uint8 [H, W, 1 | 3 | 4] -> uint8 [H, W, 3]; transparency is dropped."""
    if image.ndim != 3 or image.dtype != np.uint8 or image.shape[2] not in (1, 3, 4):
        raise InputError(f"{where}: images must be uint8 [H, W, 1, 3 or 4]. Received: {image.dtype} {image.shape}")
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., :3]
