"""Deep supervision: layers inside a network that are scored by a loss of their own while it trains."""

import math

import keras
from keras import layers, ops

from kseg.layers import Conv2D


@keras.saving.register_keras_serializable("kseg")
class DeeplySupervised(keras.Model):
    """A network whose further outputs [B, h, w, classes] are coarser scores of the same image.

    Made by `deeply_supervised`. In `fit` the loss of the first output counts in full and that of each further one
    `weight` times; metrics and validation see the first output only.

    Attributes:
        prediction: keras.Model, the same layers with the first output alone.
        weight: factor of the further losses.
    """

    weight = 0.4

    def get_config(self):
        return {**super().get_config(), "weight": self.weight}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        weight = config.pop("weight", cls.weight)
        model = super().from_config(config, custom_objects)
        model.weight = weight
        return model

    @property
    def prediction(self):
        return keras.Model(self.input, self.outputs[0], name=self.name)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        total = super().compute_loss(x, y, y_pred[0], sample_weight, training)
        if training:
            for scores in y_pred[1:]:
                coarse = _sampled(y, scores)
                per_pixel = sample_weight is not None and len(sample_weight.shape) > 1
                weights = _sampled(sample_weight, scores) if per_pixel else sample_weight
                height, width = ops.shape(coarse)[1:3]
                total = total + self.weight * self.loss(coarse, scores[:, :height, :width], weights)
        return total

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, y, y_pred[0], sample_weight)


def deeply_supervised(network, at, weight=0.4):
    """A network to train instead of `network`, of whose layers it consists.

    Each layer in `at` gets a 1x1 convolution to the classes, and the loss compares these scores with the labels at
    the middle of each of its cells: coarse scores are not enlarged, coarse labels are taken.

    Args:
        network: keras.Model, images -> logits [B, H, W, classes].
        at: names of layers with outputs [B, h, w, C], such as "decode_4_relu2" of a U-Net, whose cells are 1, 2, 4,
            8, ... pixels wide, and no wider than the crops.
        weight: factor of each of these losses.
    Returns:
        DeeplySupervised; compile it with one loss object. Its attribute `prediction` is the network without the
        further outputs.
    Raises:
        ValueError: no such layer, its output is no map, or no layer at all.
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
        features = network.get_layer(name).output
        if len(features.shape) != 4:
            raise ValueError(f"`at` must name layers with outputs [B, h, w, C]. Received: {name}, {features.shape}")
        options = {"kernel_initializer": "he_normal", "dtype": "float32", "name": f"auxiliary_{name}"}
        scores = Conv2D(classes, 1, **options)(features)
        outputs.append(layers.Activation("linear", dtype="float32", name=f"auxiliary_{name}_logits")(scores))
    model = DeeplySupervised(network.input, outputs, name=network.name)
    model.weight = float(weight)
    return model


def prediction_model(model):
    """The network that a training run is about: without the further outputs of deep supervision."""
    return model.prediction if isinstance(model, DeeplySupervised) else model


def _sampled(values, scores):
    """Of values [B, H, W], those at the middle of each cell of scores [B, h, w, classes] that is not all padding.

    `PadToStride` adds at the bottom and the right, so the cells begin at the top and the left.
    """
    for axis in (1, 2):
        size = ops.shape(values)[axis]
        cell = cell_px(size, ops.shape(scores)[axis])
        middles = ops.arange((size + cell - 1) // cell) * cell + cell // 2
        values = ops.take(values, ops.minimum(middles, size - 1), axis=axis)
    return values


def cell_px(size, cells):
    """Pixels a cell of the scores is wide: the least power of two with which so many cover the image, padded or not.

    Args:
        size: of the image in pixels, int or (where it is not known before) an integer tensor.
        cells: how many the scores have along that size, the same.
    """
    if isinstance(size, int) and isinstance(cells, int):
        return 2 ** max(0, math.ceil(math.log2(size / cells)))
    return 2 ** ops.cast(ops.ceil(ops.log2(size / cells) - 1e-3), "int32")  # the logarithm is not exact
