"""The losses as Keras objects for `model.compile(loss=...)`. Each is a thin shell around its function."""

import keras

from kseg.losses import overlap, pixelwise


class _SegmentationLoss(keras.losses.Loss):
    """Base of all: `_arguments` (a dict) are both the configuration and what the function is called with.

    A subclass says `_function` and whether it `_takes_weights`.
    """

    _function = None
    _takes_weights = False

    def __init__(self, name, **arguments):
        # float32 whatever the policy: with dtype set, Keras casts the predictions to it before `call`.
        super().__init__(name=name, dtype="float32")
        if arguments["ignore"] is not None:
            arguments["ignore"] = int(arguments["ignore"])  # perhaps NumPy's, which JSON does not take
        self._arguments = arguments

    def __call__(self, y_true, y_pred, sample_weight=None):
        """See `call`. `sample_weight`: [B] or [B, H, W]; it goes into the weighted mean over pixels.

        Raises:
            ValueError: `sample_weight` is given to a loss that is not a mean over pixels.
        """
        if sample_weight is None:
            return super().__call__(y_true, y_pred)
        if not self._takes_weights:
            raise ValueError(
                f"`sample_weight` must be None for {type(self).__name__}, which compares regions and is no mean over "
                f"pixels (CrossEntropy, Focal and HardPixels take it). Received: shape {tuple(sample_weight.shape)}"
            )
        # Keras would multiply its weights into the finished mean; as part of the truth they reach the function.
        return super().__call__((y_true, sample_weight), y_pred)

    def call(self, y_true, y_pred):
        """Labels [B, H, W] (and perhaps weights), logits [B, H, W, classes] -> float32 [1]."""
        arguments = dict(self._arguments)
        if isinstance(y_true, tuple):
            y_true, arguments["sample_weight"] = y_true
        loss = type(self)._function(y_true, y_pred, **arguments)
        # One element, not a scalar: Keras divides a gradient by the number of replicas only for what it reduces itself.
        return keras.ops.reshape(loss, (1,))

    def get_config(self):
        """The arguments of the constructor."""
        return {"name": self.name, **self._arguments}


@keras.saving.register_keras_serializable("kseg")
class CrossEntropy(_SegmentationLoss):
    """Softmax cross-entropy, the weighted mean over valid pixels: see `kseg.losses.cross_entropy`.

    Args:
        ignore: label of the pixels that do not count, or None.
        class_weights: one number >= 0 a class, or None; the loss is sum(w * ce) / sum(w).
        label_smoothing: in [0, 1).
        name: the name of the loss.
    Takes `sample_weight` [B] or [B, H, W] in `fit`. (`fit(class_weight=...)` is not meant for masks.)
    """

    _function = staticmethod(pixelwise.cross_entropy)
    _takes_weights = True

    def __init__(self, ignore=None, class_weights=None, label_smoothing=0.0, name="cross_entropy"):
        pixelwise.check_smoothing(label_smoothing)
        super().__init__(
            name, ignore=ignore, class_weights=_checked(class_weights), label_smoothing=float(label_smoothing)
        )


@keras.saving.register_keras_serializable("kseg")
class Focal(_SegmentationLoss):
    """Focal loss (Lin et al. 2017), the weighted mean over valid pixels: see `kseg.losses.focal`.

    Args:
        ignore: label of the pixels that do not count, or None.
        gamma: >= 0, how strongly pixels that are already right are turned down.
        class_weights: one number >= 0 a class (the paper's alpha), or None.
        name: the name of the loss.
    Takes `sample_weight` [B] or [B, H, W] in `fit`.
    """

    _function = staticmethod(pixelwise.focal)
    _takes_weights = True

    def __init__(self, ignore=None, gamma=2.0, class_weights=None, name="focal"):
        pixelwise.check_gamma(gamma)
        super().__init__(name, ignore=ignore, gamma=float(gamma), class_weights=_checked(class_weights))


@keras.saving.register_keras_serializable("kseg")
class HardPixels(_SegmentationLoss):
    """Cross-entropy over the hardest pixels of the batch (Wu et al. 2016): see `kseg.losses.hard_pixels`.

    Args:
        ignore: label of the pixels that do not count, or None.
        share: in (0, 1], the part of the valid pixels that counts.
        class_weights: one number >= 0 a class, or None.
        name: the name of the loss.
    Takes `sample_weight` [B] or [B, H, W] in `fit`. Under `tf.distribute` each replica takes its own hardest pixels.
    """

    _function = staticmethod(pixelwise.hard_pixels)
    _takes_weights = True

    def __init__(self, ignore=None, share=0.25, class_weights=None, name="hard_pixels"):
        pixelwise.check_share(share)
        super().__init__(name, ignore=ignore, share=float(share), class_weights=_checked(class_weights))


@keras.saving.register_keras_serializable("kseg")
class SoftDice(_SegmentationLoss):
    """1 - Dice with squared denominators (Milletari et al. 2016): see `kseg.losses.soft_dice`.

    Args:
        ignore: label of the pixels that do not count, or None.
        smooth: >= 0, in pixels.
        name: the name of the loss.
    """

    _function = staticmethod(overlap.soft_dice)

    def __init__(self, ignore=None, smooth=0.0, name="soft_dice"):
        overlap.check_smooth(smooth)
        super().__init__(name, ignore=ignore, smooth=float(smooth))


@keras.saving.register_keras_serializable("kseg")
class SoftJaccard(_SegmentationLoss):
    """1 - Jaccard index with squared denominators: see `kseg.losses.soft_jaccard`.

    Args:
        ignore: label of the pixels that do not count, or None.
        smooth: >= 0, in pixels.
        name: the name of the loss.
    """

    _function = staticmethod(overlap.soft_jaccard)

    def __init__(self, ignore=None, smooth=0.0, name="soft_jaccard"):
        overlap.check_smooth(smooth)
        super().__init__(name, ignore=ignore, smooth=float(smooth))


@keras.saving.register_keras_serializable("kseg")
class Tversky(_SegmentationLoss):
    """1 - Tversky index (Salehi et al. 2017): see `kseg.losses.tversky`.

    Args:
        ignore: label of the pixels that do not count, or None.
        alpha: >= 0, the price of false positives.
        beta: >= 0, the price of false negatives.
        smooth: >= 0, in pixels.
        name: the name of the loss.
    """

    _function = staticmethod(overlap.tversky)

    def __init__(self, ignore=None, alpha=0.3, beta=0.7, smooth=0.0, name="tversky"):
        overlap.check_tversky(alpha, beta)
        overlap.check_smooth(smooth)
        super().__init__(name, ignore=ignore, alpha=float(alpha), beta=float(beta), smooth=float(smooth))


@keras.saving.register_keras_serializable("kseg")
class LovaszSoftmax(_SegmentationLoss):
    """Lovász-softmax (Berman et al. 2018): see `kseg.losses.lovasz_softmax`.

    It costs two to three times what the other losses do (tests/benchmarks/losses.py). Mostly added to cross-entropy,
    or used to fine-tune what that has trained.

    Args:
        ignore: label of the pixels that do not count, or None.
        per_image: False takes the batch as one image; True averages over images.
        name: the name of the loss.
    """

    _function = staticmethod(overlap.lovasz_softmax)

    def __init__(self, ignore=None, per_image=False, name="lovasz_softmax"):
        super().__init__(name, ignore=ignore, per_image=bool(per_image))


@keras.saving.register_keras_serializable("kseg")
class WeightedSum(keras.losses.Loss):
    """Sum of losses, each times its weight: `WeightedSum([CrossEntropy(), SoftDice()], [1.0, 0.5])`.

    Args:
        losses: Keras losses, those of kseg or any other. Each keeps its own `ignore`.
        weights: one number a loss, or None for 1 each.
        name: the name of the loss.
    Raises:
        ValueError: no losses, something that is no loss, or as many weights as there are losses is not given.
    `sample_weight` goes to every loss, so all of them must take it.
    """

    def __init__(self, losses, weights=None, name="weighted_sum"):
        super().__init__(name=name, dtype="float32")
        losses = list(losses)
        if not losses or not all(isinstance(loss, keras.losses.Loss) for loss in losses):
            raise ValueError(f"`losses` must be a list of at least one keras.losses.Loss object. Received: {losses}")
        weights = [1.0] * len(losses) if weights is None else _floats(weights)
        if len(weights) != len(losses):
            raise ValueError(f"`weights` must hold one number for each of {len(losses)} losses. Received: {weights}")
        self.losses, self.weights = losses, weights

    def __call__(self, y_true, y_pred, sample_weight=None):
        """float32 scalar. Each part casts and reduces for itself."""
        parts = zip(self.losses, self.weights, strict=True)
        return sum(weight * loss(y_true, y_pred, sample_weight) for loss, weight in parts)

    def call(self, y_true, y_pred):
        """The same without sample weights."""
        return self(y_true, y_pred)

    def get_config(self):
        """The arguments of the constructor, the losses serialized."""
        losses = [keras.saving.serialize_keras_object(loss) for loss in self.losses]
        return {"name": self.name, "losses": losses, "weights": self.weights}

    @classmethod
    def from_config(cls, config):
        """Build from what `get_config` gave."""
        losses = [keras.saving.deserialize_keras_object(loss) for loss in config["losses"]]
        return cls(**{**config, "losses": losses})


def _floats(numbers):
    return None if numbers is None else [float(number) for number in numbers]


def _checked(class_weights):
    if class_weights is not None:
        pixelwise.check_class_weights(class_weights)
    return _floats(class_weights)
