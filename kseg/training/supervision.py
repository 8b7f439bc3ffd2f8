"""Deep supervision: layers inside a network that are scored by a loss of their own while it trains."""

import math

import keras
from keras import layers, ops

from kseg.layers import Conv2D, PadToStride
from kseg.lowering.graph import plain_ends

_PROBE_PX = 1024  # a size that every stride divides, for networks of any size


@keras.saving.register_keras_serializable("kseg")
class AuxiliaryScores(layers.Layer):
    """Passes scores [B, h, w, classes] on, and tells the loss what they stand for: here a copy of the network keeps it.

    Attributes:
        cell_px: (height, width) of the pixels that a score stands for.
        weight: factor of their loss.
    """

    def __init__(self, cell_px, weight, **kwargs):
        super().__init__(**kwargs)
        self.cell_px = tuple(cell_px)
        self.weight = weight

    def call(self, scores):
        return scores

    def get_config(self):
        return {**super().get_config(), "cell_px": self.cell_px, "weight": self.weight}


@keras.saving.register_keras_serializable("kseg")
class DeeplySupervised(keras.Model):
    """A network whose further outputs [B, h, w, classes] are coarser scores of the same image.

    Made by `deeply_supervised`. In `fit` the loss of the first output counts in full and that of each further one
    as often as its AuxiliaryScores say; metrics and validation see the first output only.

    Attributes:
        prediction: keras.Model, the same layers with the first output alone.
    """

    @property
    def prediction(self):
        return keras.Model(self.input, self.outputs[0], name=self.name)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        total = super().compute_loss(x, y, y_pred[0], sample_weight, training)
        if training:
            for scores, output in zip(y_pred[1:], self.outputs[1:], strict=True):
                auxiliary = output._keras_history.operation
                coarse = _sampled(y, auxiliary.cell_px)
                per_pixel = sample_weight is not None and len(sample_weight.shape) > 1
                weights = _sampled(sample_weight, auxiliary.cell_px) if per_pixel else sample_weight
                height, width = ops.shape(coarse)[1:3]
                total = total + auxiliary.weight * self.loss(coarse, scores[:, :height, :width], weights)
        return total

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, y, y_pred[0], sample_weight)


def deeply_supervised(network, at, weight=0.4):
    """A network to train instead of `network`, of whose layers it consists.

    Each layer in `at` gets a 1x1 convolution to the classes, and the loss compares these scores with the labels at
    the middle of each of its cells: coarse scores are not enlarged, coarse labels are taken.

    Args:
        network: keras.Model, images [B, H, W, C] -> logits [B, H, W, classes].
        at: names of layers with outputs [B, h, w, C], such as "decode_4_relu2" of a U-Net, whose cells are 1, 2, 4,
            8, ... pixels wide.
        weight: factor of each of these losses.
    Returns:
        DeeplySupervised; compile it with one loss object. Its attribute `prediction` is the network without the
        further outputs.
    Raises:
        ValueError: no such layer, its output is no map, no layer at all, or the logits are not of the image's size.
    Example:
        trainer = deeply_supervised(UNet(classes=2), at=("decode_8_relu2", "decode_4_relu2"))
        trainer.compile("adam", kseg.losses.CrossEntropy())
        trainer.fit(batches)
        save_model(trainer.prediction, "unet.keras", labels)
    Reference: Lee et al. 2015, "Deeply-Supervised Nets"; weight 0.4 as in Zhao et al. 2017 (PSPNet), section 3.3.
    Departs: those enlarge the scores.
    """
    at = tuple(at)
    names = [layer.name for layer in network.layers]
    missing = [name for name in at if name not in names]
    if missing or not at:
        raise ValueError(f"`at` must name layers of the network, such as {names[-3]}. Received: {missing or at}")
    classes = network.output_shape[-1]
    outputs = [network.outputs[0]]
    for name in at:
        features = keras.tree.flatten(network.get_layer(name).output)[0]  # of 8-bit training, a step comes second
        if len(features.shape) != 4:
            raise ValueError(f"`at` must name layers with outputs [B, h, w, C]. Received: {name}, {features.shape}")
        options = {"kernel_initializer": "he_normal", "dtype": "float32", "name": f"auxiliary_{name}"}
        scores = Conv2D(classes, 1, **options)(features)
        named = {"dtype": "float32", "name": f"auxiliary_{name}_logits"}
        outputs.append(AuxiliaryScores(_cell_px(network, features), float(weight), **named)(scores))
    return DeeplySupervised(plain_ends(network)[0], outputs, name=network.name)


def prediction_model(model):
    """The network that a training run is about: without the further outputs of deep supervision."""
    return model.prediction if isinstance(model, DeeplySupervised) else model


def _sampled(values, cell_px):
    """Of values [B, H, W], those at the middle of each cell that is not all padding.

    `PadToStride` adds at the bottom and the right, so the cells begin at the top and the left.
    """
    for axis, cell in zip((1, 2), cell_px, strict=True):
        size = ops.shape(values)[axis]
        middles = ops.arange((size + cell - 1) // cell) * cell + cell // 2
        values = ops.take(values, ops.minimum(middles, size - 1), axis=axis)
    return values


def _cell_px(network, features):
    """(height, width) of a cell of `features` in pixels: the least powers of two with which they cover the image."""
    _, *sides, channels = network.inputs[0].shape
    sides = [side or _PROBE_PX for side in sides]
    image = keras.KerasTensor((1, *sides, channels))
    given, logits = plain_ends(network)
    logits, cells = keras.Model(given, [logits, features]).compute_output_spec(image)
    if list(logits.shape[1:3]) != sides:
        raise ValueError(
            f'`network` must give logits of the size of the image (padding="same"). Received: {network.name}, '
            f"{logits.shape[1]} x {logits.shape[2]} for {sides[0]} x {sides[1]} pixels"
        )
    stride = max((layer.stride for layer in network.layers if isinstance(layer, PadToStride)), default=1)
    padded = [side + -side % stride for side in sides]
    return tuple(2 ** math.ceil(math.log2(side / count)) for side, count in zip(padded, cells.shape[1:3], strict=True))
