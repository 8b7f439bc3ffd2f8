"""A recipe's words -> the Keras objects they stand for."""

import inspect

import keras

from kseg import applications, losses
from kseg.errors import InputError
from kseg.lowering import quantization_aware

NETWORKS = {name: getattr(applications, name) for name in ("FCN32s", "FCN16s", "FCN8s", "UNet")}

LOSSES = {
    "cross_entropy": losses.CrossEntropy,
    "focal": losses.Focal,
    "hard_pixels": losses.HardPixels,
    "soft_dice": losses.SoftDice,
    "soft_jaccard": losses.SoftJaccard,
    "tversky": losses.Tversky,
    "lovasz_softmax": losses.LovaszSoftmax,
}

# U-Net and FCN take only what their papers know, so a recipe hands on just the fields that it sets.
_NETWORK_FIELDS = (
    "backbone",
    "backbone_weights",
    "alpha",
    "fc_units",
    "filters",
    "depth",
    "batch_normalization",
    "dropout",
    "upsampling",
    "weights",
)


def build_network(recipe, classes):
    """The recipe's network for any image size, raw RGB in, float32 logits out.

    Raises:
        InputError: unknown network, or a field that this network does not have.
    """
    builder = _find(NETWORKS, recipe.model, "network")
    options = {name: getattr(recipe, name) for name in _NETWORK_FIELDS if getattr(recipe, name) is not None}
    unknown = set(options) - set(inspect.signature(builder).parameters)
    if unknown:
        raise InputError(f"{recipe.model} has no option {', '.join(sorted(unknown))}; set it to none in the recipe")
    if recipe.quantization_aware and not recipe.weights:
        raise InputError("`quantization_aware` fine-tunes a trained network: say which one (--set weights=best.keras)")
    try:
        network = builder(input_shape=(None, None, 3), classes=classes, **options)
    except InputError:
        raise
    except ValueError as error:  # a builder's own rule, such as an unknown backbone: the user chose the value
        raise InputError(f"{recipe.model}: {error}") from error
    if recipe.quantization_aware:
        network = quantization_aware(network)
    for layer in network.layers:
        if layer.name.startswith(recipe.frozen):
            layer.trainable = False
    return network


def build_loss(recipe, labels, class_weights=None):
    """The sum of the recipe's losses, blind to the label set's ignore index.

    Args:
        recipe: Recipe.
        labels: LabelSet.
        class_weights: one number a class for those losses that are means over pixels, or None.
    """
    terms = []
    for name in recipe.loss:
        loss = _find(LOSSES, name, "loss")
        options = {
            "ignore": labels.ignore,
            "label_smoothing": recipe.label_smoothing,
            "class_weights": class_weights,
            "share": recipe.hard_share,
        }
        terms.append(loss(**{k: v for k, v in options.items() if k in inspect.signature(loss).parameters}))
    return terms[0] if len(terms) == 1 else losses.WeightedSum(terms)


def build_optimizer(recipe, steps):
    """The recipe's optimizer with its learning-rate schedule over `steps` steps."""
    rate = _schedule(recipe, steps)
    return _find(OPTIMIZERS, recipe.optimizer, "optimizer")(rate, recipe)


def _schedule(recipe, steps):
    warmup = min(recipe.warmup_steps, steps - 1)
    after = max(1, steps - warmup)
    if recipe.schedule == "constant" and not warmup:
        return recipe.learning_rate
    if recipe.schedule == "cosine":
        # Keras's cosine brings its own warm-up.
        start = 0.0 if warmup else recipe.learning_rate
        return keras.optimizers.schedules.CosineDecay(
            start, after, warmup_target=recipe.learning_rate if warmup else None, warmup_steps=warmup
        )
    power = 0.9 if recipe.schedule == "polynomial" else 0.0
    return WarmupPolynomial(recipe.learning_rate, after, warmup, power)


@keras.saving.register_keras_serializable("kseg")
class WarmupPolynomial(keras.optimizers.schedules.LearningRateSchedule):
    """Linear rise over `warmup_steps`, then rate * (1 - t)^power over `decay_steps` (Chen et al. 2017, DeepLab)."""

    def __init__(self, learning_rate, decay_steps, warmup_steps=0, power=0.9):
        self.learning_rate = learning_rate
        self.decay_steps = decay_steps
        self.warmup_steps = warmup_steps
        self.power = power

    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        done = keras.ops.clip((step - self.warmup_steps) / self.decay_steps, 0.0, 1.0)
        rise = keras.ops.minimum((step + 1.0) / (self.warmup_steps + 1.0), 1.0)
        return self.learning_rate * rise * (1.0 - done) ** self.power

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "decay_steps": self.decay_steps,
            "warmup_steps": self.warmup_steps,
            "power": self.power,
        }


OPTIMIZERS = {
    "adamw": lambda rate, recipe: keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay),
    "adam": lambda rate, recipe: keras.optimizers.Adam(rate),
    "sgd": lambda rate, recipe: keras.optimizers.SGD(
        rate, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
    ),
}


def _find(table, name, what):
    if name not in table:
        raise InputError(f"no {what} {name!r}; there are: {', '.join(table)}")
    return table[name]
