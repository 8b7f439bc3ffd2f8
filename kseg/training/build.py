"""A recipe's words -> the Keras objects they stand for."""

import inspect

import keras

from kseg import applications, losses
from kseg.applications.backbones import BACKBONE_LAYERS
from kseg.errors import InputError
from kseg.lowering import quantization_aware
from kseg.metrics import ConfusionMatrix
from kseg.training.optimizers import build_optimizer, carry_over
from kseg.training.supervision import deeply_supervised

NETWORKS = {name: getattr(applications, name) for name in ("FCN32s", "FCN16s", "FCN8s", "UNet", "DeepLabV3Plus")}

LOSSES = {
    "cross_entropy": losses.CrossEntropy,
    "focal": losses.Focal,
    "hard_pixels": losses.HardPixels,
    "soft_dice": losses.SoftDice,
    "soft_jaccard": losses.SoftJaccard,
    "tversky": losses.Tversky,
    "lovasz_softmax": losses.LovaszSoftmax,
}

# The networks take only what their papers know, so a recipe hands on just the fields that it sets.
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
    "trainable_upsampling",
    "weights",
)


def build_network(recipe, classes):
    """The recipe's network for any image size, raw RGB in, float32 logits out.

    Raises:
        InputError: unknown network, or a field that this network does not have.
    """
    builder = _find(NETWORKS, recipe.model, "network")
    options = {name: getattr(recipe, name) for name in _NETWORK_FIELDS if getattr(recipe, name) is not None}
    if recipe.weights and recipe.backbone_weights == "imagenet":
        del options["backbone_weights"]  # a trained network brings its own; they would be fetched for nothing
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
    return network


def layers_of(recipe, names):
    """Beginnings of layer names, with the word "backbone" replaced by those of the recipe's backbone.

    Raises:
        InputError: the network has none.
    """
    if "backbone" not in names:
        return tuple(names)
    backbone = "vgg16" if recipe.model.startswith("FCN") else recipe.backbone
    if backbone is None:
        raise InputError(f"{recipe.model} has no backbone; name one (--set backbone=vgg16) or name layers")
    return (*(name for name in names if name != "backbone"), *BACKBONE_LAYERS[backbone])


def build_trainer(recipe, labels, precision):
    """The recipe's network as it is trained: with its seed, its precision and the further outputs that it asks for.

    Raises:
        InputError: the recipe names what does not exist.
    """
    keras.utils.set_random_seed(recipe.seed)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        network = build_network(recipe, len(labels))
        if not recipe.auxiliary:
            return network
        unknown = set(recipe.auxiliary) - {layer.name for layer in network.layers}
        if unknown:
            raise InputError(
                f"recipe field `auxiliary`: {recipe.model} has no layer {', '.join(sorted(unknown))}; "
                f"there are: {_names_in(network.layers)}"
            )
        return deeply_supervised(network, recipe.auxiliary, recipe.auxiliary_weight)
    finally:
        keras.config.set_dtype_policy(before)


def compile_trainer(model, recipe, labels, steps, loss):
    """Compile what `build_trainer` made with the recipe's optimizer and schedule.

    Args:
        model, recipe, labels: as there.
        steps: batches an epoch.
        loss: from `build_loss`.
    """
    rates = dict.fromkeys(layers_of(recipe, ["backbone"]), recipe.backbone_rate) if recipe.backbone_rate != 1 else None
    model.compile(
        optimizer=build_optimizer(recipe, steps * recipe.epochs, rates),
        loss=loss,
        metrics=[ConfusionMatrix(len(labels), ignore=labels.ignore, names=labels.names)],
        jit_compile=keras.backend.backend() == "jax",
    )
    # Built within the first step, its variables would make TensorFlow trace that step twice.
    model.optimizer.build(model.trainable_variables)


def freeze(model, recipe):
    """Take the layers that the recipe names out of the training; their normalisations then use the moving statistics.

    Returns:
        The layers that were trained before.
    Raises:
        InputError: the recipe names layers that the network does not have.
    """
    frozen = []
    for name in layers_of(recipe, recipe.frozen):
        found = [layer for layer in model.layers if layer.name.startswith(name)]
        if not found and name in recipe.frozen:  # a network need not have every layer of its backbone
            raise InputError(
                f"recipe field `frozen`: {recipe.model} has no layer that begins with {name!r}; "
                f"there are: {_names_in(layer for layer in model.layers if layer.weights)}"
            )
        frozen += [layer for layer in found if layer.trainable]
    for layer in frozen:
        layer.trainable = False
    return frozen


def _names_in(layers):
    return ", ".join(layer.name for layer in layers)


def go_on(model, recipe, labels, steps, *, thawed=(), loss=None):
    """Compile a model that has been trained for some epochs anew; the optimizer goes on with what it knows.

    Args:
        model, recipe, labels, steps: as in `compile_trainer`.
        thawed: layers that `freeze` returned, which are trained from here on.
        loss: from `build_loss`; None: as before.
    """
    for layer in thawed:
        layer.trainable = True
    before = model.optimizer
    compile_trainer(model, recipe, labels, steps, loss or model.loss)
    carry_over(before, model.optimizer)


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


def _find(table, name, what):
    if name not in table:
        raise InputError(f"no {what} {name!r}; there are: {', '.join(table)}")
    return table[name]
