"""Sources -> tf.data batches.

Training: everything random is a function of (seed, epoch, position in the epoch), computed by stateless ops. So the
stream is the same on every run, for any number of threads, and can start at any epoch.
"""

import math
from collections.abc import Sequence
from functools import partial

from kseg.data.backend import tensorflow
from kseg.data.borders import border_weights
from kseg.data.elastic import elastic_margin, random_elastic
from kseg.data.transforms import random_colour, random_crop_of, random_quarter_turn

_FLIPS = ("none", "horizontal", "all")


def steps_per_epoch(source, batch):
    """Batches an epoch: full ones only; one if there are fewer samples than a batch holds."""
    return max(1, len(source.names) // batch)


def training_batches(
    source,
    crop_px,
    batch,
    seed=0,
    first_epoch=0,
    epochs=1,
    *,
    scales=(0.75, 1.5),
    flips="horizontal",
    brightness=0.2,
    contrast=0.2,
    saturation=0.2,
    elastic_px=0.0,
    transforms=None,
    border_weight=0.0,
    border_sigma_px=5.0,
    border_background=0,
    shard=(0, 1),
):
    """One endless-looking stream of training batches over the epochs first_epoch .. epochs - 1.

    Each epoch takes the samples in an order of its own and drops those beyond the last full batch; with fewer samples
    than `batch` it takes them again and again until one batch is full, each time changed in another way.

    Args:
        source: a source.
        crop_px: (height, width) of a crop.
        batch: crops a batch.
        seed: int; the same seed gives the same stream.
        first_epoch: where to start: the stream is the tail of the one that starts at 0.
        epochs: where to stop (the total, as in `Model.fit`).
        scales, flips: see `random_crop`; flips="all" adds quarter turns where the crop is square.
        brightness, contrast, saturation: see `random_colour`.
        elastic_px: `sigma_px` of `random_elastic`, 0 for none. The crop is cut with a margin for it, so that the
            deformation moves in what lies beside the crop; only beyond the image it mirrors.
        transforms: sequence of functions (image, label, seed) -> (image, label) instead of the six settings above.
            The last one must give images of `crop_px`. `Albumentations` is one.
        border_weight, border_sigma_px, border_background: `w0`, `sigma_px` and `background` of `border_weights`;
            weight 0 for none. With it the batches have weights too, which `fit` hands to the loss.
        shard: (index, count): give only this part, of `count` equal ones, of each batch, and read no other: the parts
            of all indices make up the batches of one process.
    Returns:
        tf.data.Dataset of (images float32 [batch / count, *crop_px, 3] in 0..255, labels int32 [batch / count,
        *crop_px]), or, with border weights, (images, labels, weights float32 [batch / count, *crop_px]);
        `steps_per_epoch` batches an epoch.
    Raises:
        ValueError: an argument is out of its range.
    """
    tf = tensorflow()
    _check(crop_px, batch, seed, first_epoch, epochs, scales, flips)
    _check_shard(shard, batch)
    _check_changes(elastic_px, border_weight, border_sigma_px, border_background, source.labels)
    crop_px, ignore = tuple(int(side) for side in crop_px), source.labels.ignore
    read_crop = None
    if transforms is None:
        read_crop, transforms = _changes(source, crop_px, scales, flips, elastic_px, (brightness, contrast, saturation))
    weigh = partial(
        border_weights, w0=border_weight, sigma_px=border_sigma_px, background=border_background, ignore=ignore
    )
    steps = steps_per_epoch(source, batch)
    order = partial(_order, samples=len(source.names), steps=steps, batch=batch, seed=seed, shard=shard)

    def crop(index, position, epoch):
        key = tf.random.experimental.stateless_fold_in(tf.stack([seed, epoch]), position)
        fold = tf.random.experimental.stateless_fold_in
        image, label = source.read(index) if read_crop is None else read_crop(index, fold(key, 0))
        for number, transform in enumerate(transforms, start=0 if read_crop is None else 1):
            image, label = transform(image, label, fold(key, number))
        image, label = tf.ensure_shape(tf.cast(image, tf.float32), [*crop_px, 3]), tf.ensure_shape(label, crop_px)
        if not border_weight:
            return image, label
        return image, label, tf.ensure_shape(tf.numpy_function(weigh, [label], tf.float32), crop_px)

    # These functions branch by tf.cond; AutoGraph would only search them for Python's `if`.
    order, crop = (tf.autograph.experimental.do_not_convert(function) for function in (order, crop))
    batches = (
        tf.data.Dataset.range(first_epoch, epochs)
        .flat_map(order)
        .map(crop, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(batch // shard[1], drop_remainder=True)
        .apply(tf.data.experimental.assert_cardinality(steps * (epochs - first_epoch)))
    )
    return batches.prefetch(tf.data.AUTOTUNE)


def _order(epoch, samples, steps, batch, seed, shard):
    """What one epoch reads, in its order: a tf.data.Dataset of (index of the sample, position, epoch)."""
    tf = tensorflow()
    shuffled = tf.random.experimental.stateless_shuffle(tf.range(samples, dtype=tf.int64), tf.stack([seed, epoch]))
    positions = tf.range(steps * batch, dtype=tf.int64)
    positions = tf.reshape(tf.reshape(positions, [steps, shard[1], batch // shard[1]])[:, shard[0]], [-1])
    indices = tf.gather(shuffled, positions % samples)
    return tf.data.Dataset.from_tensor_slices((indices, positions, tf.fill(positions.shape, epoch)))


def _changes(source, crop_px, scales, flips, elastic_px, colour):
    """(function that reads the crop of a sample, the transforms that follow it)."""
    margin_px = elastic_margin(elastic_px)
    read_crop = partial(random_crop_of, source, crop_px=crop_px, scales=scales, flips=flips, margin_px=margin_px)
    transforms = []
    if elastic_px:
        ignore = source.labels.ignore
        transforms.append(partial(random_elastic, sigma_px=elastic_px, margin_px=margin_px, ignore=ignore))
    if flips == "all" and crop_px[0] == crop_px[1]:
        transforms.append(random_quarter_turn)
    if any(colour):
        brightness, contrast, saturation = colour
        transforms.append(partial(random_colour, brightness=brightness, contrast=contrast, saturation=saturation))
    return read_crop, transforms


def evaluation_batches(source, batch=1):
    """The samples in order, in full size and unchanged.

    Samples of different sizes are padded at the bottom and right to the largest of their batch: images with 0, labels
    with the ignore index. Where the label set has none, nothing could mark the padding, so they come one by one.

    Args:
        source: a source.
        batch: images a batch; the last one may hold fewer.
    Returns:
        tf.data.Dataset of (images uint8 [B, H, W, 3], labels int32 [B, H, W]).
    Raises:
        ValueError: `batch` is less than 1.
    """
    tf = tensorflow()
    if batch < 1:
        raise ValueError(f"`batch` must be at least 1. Received: {batch}")
    ignore = source.labels.ignore
    if ignore is None and batch > 1 and not _one_size(source):
        batch = 1
    samples = tf.data.Dataset.range(len(source.names))
    read = tf.autograph.experimental.do_not_convert(source.read)
    samples = samples.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if batch == 1 or ignore is None:
        return samples.batch(batch).prefetch(tf.data.AUTOTUNE)
    padding = (tf.constant(0, tf.uint8), tf.constant(ignore, tf.int32))
    shapes = ([None, None, 3], [None, None])
    return samples.padded_batch(batch, shapes, padding).prefetch(tf.data.AUTOTUNE)


def _one_size(source):
    """Whether all images are known to have the same size."""
    sizes = {source.size(index) for index in range(len(source.names))}
    return len(sizes) == 1 and None not in sizes


def _check_shard(shard, batch):
    index, count = shard
    if not 0 <= index < count or batch % count:
        raise ValueError(
            f"`shard` must be (index, count), with index in 0 .. count - 1 and a `batch` that is a multiple of count. "
            f"Received: {shard}, batch {batch}"
        )


def _check(crop_px, batch, seed, first_epoch, epochs, scales, flips):
    if not isinstance(crop_px, Sequence) or len(crop_px) != 2 or min(crop_px) < 1:
        raise ValueError(f"`crop_px` must be (height, width), each at least 1. Received: {crop_px}")
    if batch < 1:
        raise ValueError(f"`batch` must be at least 1. Received: {batch}")
    if not 0 <= first_epoch < epochs:
        raise ValueError(f"`first_epoch` must be in 0 .. epochs - 1. Received: {first_epoch} of {epochs} epochs")
    if not 0 <= seed < 2**63:
        raise ValueError(f"`seed` must be a whole number from 0. Received: {seed}")
    if len(scales) != 2 or not 0 < scales[0] <= scales[1] < math.inf:
        raise ValueError(f"`scales` must be (smallest, largest), above 0 and finite. Received: {scales}")
    if flips not in _FLIPS:
        raise ValueError(f"`flips` must be one of {_FLIPS}. Received: {flips!r}")


def _check_changes(elastic_px, border_weight, border_sigma_px, border_background, labels):
    for name, number in (("elastic_px", elastic_px), ("border_weight", border_weight)):
        if not 0 <= number < math.inf:
            raise ValueError(f"`{name}` must be a finite number >= 0. Received: {number}")
    if not 0 < border_sigma_px < math.inf:
        raise ValueError(f"`border_sigma_px` must be a finite number above 0. Received: {border_sigma_px}")
    if border_weight and not 0 <= border_background < len(labels):
        raise ValueError(
            f"`border_background` must be one of {len(labels)} classes, counted from 0. Received: {border_background}"
        )
