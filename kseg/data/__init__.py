"""From disk, TFDS or memory to tf.data batches of (images, labels).

The way of the data: a *source* (sources.py, layouts.py, memory.py, tfds.py; cache.py wraps one) knows its label set,
which proposals.py guesses where there is none, and reads sample i; `scan` checks every sample; `training_batches` and
`evaluation_batches` make the batches. Reading the files needs only NumPy and Pillow (headers.py, files.py); TensorFlow
is imported when a batch is wanted, TFDS and albumentations when they are used, so every name here is imported on its
first use (PEP 562).
"""

import importlib

_HOMES = {
    "read_image": "files",
    "read_mask": "files",
    "Source": "sources",
    "FileSource": "sources",
    "Subset": "sources",
    "join": "sources",
    "arrays": "memory",
    "spread": "sources",
    "spaced": "sources",
    "folder": "layouts",
    "voc": "layouts",
    "nuclei": "layouts",
    "open_source": "layouts",
    "plain_images": "layouts",
    "split_names": "layouts",
    "unused_images": "layouts",
    "mask_files": "layouts",
    "propose_labels": "proposals",
    "shared": "splits",
    "ShardSource": "shards",
    "write_shards": "shards",
    "TFDS": "tfds",
    "cached": "cache",
    "checked": "scanning",
    "all_checked": "scanning",
    "absent_classes": "scanning",
    "scan": "scanning",
    "tell_problems": "scanning",
    "ScanReport": "scanning",
    "without": "scanning",
    "naming_bad_files": "scanning",
    "class_frequencies": "statistics",
    "ClassFrequencies": "statistics",
    "class_weights": "statistics",
    "random_crop": "transforms",
    "random_colour": "transforms",
    "random_quarter_turn": "transforms",
    "random_elastic": "elastic",
    "border_weights": "borders",
    "Albumentations": "albumentations",
    "like_native": "albumentations",
    "training_batches": "pipeline",
    "evaluation_batches": "pipeline",
    "steps_per_epoch": "pipeline",
}

__all__ = sorted(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module 'kseg.data' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"kseg.data.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_HOMES})
