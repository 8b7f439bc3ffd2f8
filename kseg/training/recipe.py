"""What a training run depends on: one frozen dataclass, its fields read from a command line and from JSON."""

import json
import math
import types
import typing
from dataclasses import asdict, dataclass, fields, replace

from kseg.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """What to train and how. Fields that are None leave the choice to the network's own default.

    Attributes:
        model: name of a builder in kseg.applications.
        backbone: pre-trained encoder of U-Net and DeepLab, "vgg16" or "mobilenet_v2".
        backbone_weights: "imagenet", or the path of a file with the backbone's weights. With `weights`, a trained
            network, "imagenet" is not fetched.
        alpha: multiplies the channels of the backbone.
        weights: path of a trained network to start from; layers that match by name and shape are copied.
        quantization_aware: fine-tune the network of `weights` for 8 bits (kseg.lowering.quantization_aware).
        frozen: beginnings of the names of layers that are not trained, such as "block1"; "backbone" stands for all of
            the backbone's.
        thaw_after: number of epochs after which the frozen layers are trained too; None: never.
        backbone_rate: factor of the learning rate for the backbone's layers.
        fc_units: FCN: channels of fc6 and fc7.
        filters: U-Net: channels at full resolution; DeepLab: of the pyramid and the decoder.
        depth: U-Net: number of times the resolution is halved.
        batch_normalization: U-Net: normalise after each convolution.
        dropout: dropped share in 0..1.
        upsampling: U-Net: "transpose" or "bilinear".
        trainable_upsampling: FCN: learn the kernels of the upsampling, which start out bilinear.
        auxiliary: names of layers that are scored by a loss of their own while training (deep supervision, see
            `kseg.training.deeply_supervised`).
        auxiliary_weight: of each of these losses.
        crop_px: (height, width) of a training crop.
        batch: crops a step.
        epochs: number of epochs.
        repeats: how often an epoch goes over the training images.
        scales: smallest and largest random zoom.
        flips: "none", "horizontal" or "all" (horizontal, vertical and quarter turns).
        augmentation: "native" (TensorFlow's operations) or "albumentations" for zoom, crop, flips and colour.
        brightness, contrast, saturation: largest relative random change, 0 for none.
        elastic_px: standard deviation of the elastic deformation in pixels, 0 for none.
        border_weight: weight added to pixels between cells that touch (w0 of Ronneberger et al. 2015), 0 for none; for
            losses that are means over pixels.
        border_sigma_px: how fast that weight falls with the distance to the two nearest cells.
        border_background: index of the class that is no cell.
        loss: names in LOSSES; their sum is minimised.
        class_weights: "none", or weights counted in the training masks, for the losses that are means over pixels:
            "median_frequency" or "inverse_log" (kseg.data.class_weights).
        weighted_share: share of the epochs in which they count, from the first on; after it all classes count alike.
        label_smoothing: share of the target that the cross-entropy spreads over all classes.
        hard_share: share of the pixels that the loss "hard_pixels" takes, in 0..1.
        optimizer: name in OPTIMIZERS.
        learning_rate: after the warm-up.
        weight_decay: decoupled from the gradient; for "adamw" and "sgd".
        schedule: "constant", "polynomial" (power 0.9, to zero) or "cosine" (to zero).
        warmup_steps: steps in which the learning rate rises linearly from zero.
        clip_norm: largest length of the gradient of all weights together, None for any.
        accumulate: batches whose gradients are averaged before the weights change.
        average: momentum of a moving average of the weights, such as 0.999, which is then what is validated and kept;
            it moves with every batch, `accumulate` or not. None: the weights themselves.
        precision: "auto", "float32", "mixed_bfloat16" or "mixed_float16".
        validate_every: epochs between validations; the last epoch is always validated.
        patience: validations without a better mean IoU after which the run ends early; None: never.
        cache: "none" or "memory": keep decoded training images.
        seed: of the weights, the order and the augmentation.
    """

    model: str
    backbone: str | None = None
    backbone_weights: str | None = None
    alpha: float | None = None
    weights: str | None = None
    quantization_aware: bool = False
    frozen: tuple[str, ...] = ()
    thaw_after: int | None = None
    backbone_rate: float = 1.0
    fc_units: int | None = None
    filters: int | None = None
    depth: int | None = None
    batch_normalization: bool | None = None
    dropout: float | None = None
    upsampling: str | None = None
    trainable_upsampling: bool | None = None
    auxiliary: tuple[str, ...] = ()
    auxiliary_weight: float = 0.4
    crop_px: tuple[int, int] = (256, 256)
    batch: int = 8
    epochs: int = 30
    repeats: int = 1
    scales: tuple[float, float] = (0.75, 1.5)
    flips: str = "horizontal"
    augmentation: str = "native"
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    elastic_px: float = 0.0
    border_weight: float = 0.0
    border_sigma_px: float = 5.0
    border_background: int = 0
    loss: tuple[str, ...] = ("cross_entropy",)
    class_weights: str = "none"
    weighted_share: float = 1.0
    label_smoothing: float = 0.0
    hard_share: float = 0.25
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    schedule: str = "polynomial"
    warmup_steps: int = 0
    clip_norm: float | None = None
    accumulate: int = 1
    average: float | None = None
    precision: str = "auto"
    validate_every: int = 1
    patience: int | None = None
    cache: str = "none"
    seed: int = 0

    def __post_init__(self):
        for name in _FROM_ONE:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"recipe field `{name}` must be at least 1. Received: {getattr(self, name)}")
        if len(self.crop_px) != 2 or min(self.crop_px) < 1:
            raise InputError(f"recipe field `crop_px` must be height,width in pixels. Received: {self.crop_px}")
        if len(self.scales) != 2 or not 0 < self.scales[0] <= self.scales[1] < math.inf:
            raise InputError(f"recipe field `scales` must be smallest,largest. Received: {self.scales}")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"recipe field `{name}` must be one of {', '.join(allowed)}. Received: {getattr(self, name)}"
                )
        for name in ("learning_rate", "clip_norm", "border_sigma_px"):
            if getattr(self, name) is not None and not 0 < getattr(self, name) < math.inf:
                raise InputError(f"recipe field `{name}` must be positive. Received: {getattr(self, name)}")
        for name in _FROM_ZERO:
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"recipe field `{name}` must be at least 0. Received: {getattr(self, name)}")
        if self.seed >= 2**32:
            raise InputError(f"recipe field `seed` must be below {2**32}. Received: {self.seed}")
        if not 0 <= self.label_smoothing < 1:
            raise InputError(
                f"recipe field `label_smoothing` must be at least 0 and below 1. Received: {self.label_smoothing}"
            )
        if self.label_smoothing and "cross_entropy" not in self.loss:
            raise InputError(
                f"recipe field `label_smoothing` works with cross_entropy. Received: {', '.join(self.loss)}"
            )
        if len(set(self.auxiliary)) < len(self.auxiliary):
            raise InputError(f"recipe field `auxiliary` must name each layer once. Received: {self.auxiliary}")
        if not self.loss:
            raise InputError("recipe field `loss` must name at least one loss. Received none")
        for name in _CHANGES:
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"recipe field `{name}` must be in 0..1. Received: {getattr(self, name)}")
        for name in _SHARES:
            if not 0 < getattr(self, name) <= 1:
                raise InputError(
                    f"recipe field `{name}` must be above 0 and at most 1. Received: {getattr(self, name)}"
                )
        if self.class_weights != "none" and not set(self.loss) & set(_PIXELWISE):
            raise InputError(
                f"recipe field `class_weights` works with {', '.join(_PIXELWISE)}. Received: {', '.join(self.loss)}"
            )
        if self.border_weight and not set(self.loss) <= set(_PIXELWISE):
            raise InputError(
                f"recipe field `border_weight` works with {', '.join(_PIXELWISE)} alone. "
                f"Received: {', '.join(self.loss)}"
            )
        if self.elastic_px and self.augmentation != "native":
            raise InputError("recipe field `elastic_px` needs `augmentation` to be native")
        if self.average is not None and not 0 < self.average < 1:
            raise InputError(f"recipe field `average` must lie between 0 and 1. Received: {self.average}")
        if self.thaw_after is not None and not self.frozen:
            raise InputError("recipe field `thaw_after` thaws what is `frozen`, and nothing is")


# Losses that are a mean over pixels, which can be weighted.
_PIXELWISE = ("cross_entropy", "focal", "hard_pixels")

_FROM_ONE = ("batch", "epochs", "repeats", "validate_every", "accumulate", "patience", "thaw_after")

_SHARES = ("hard_share", "weighted_share")

_CHANGES = ("brightness", "contrast", "saturation")

_FROM_ZERO = (
    "auxiliary_weight",
    "backbone_rate",
    "border_background",
    "border_weight",
    "elastic_px",
    "seed",
    "warmup_steps",
    "weight_decay",
)

_CHOICES = {
    "class_weights": ("none", "median_frequency", "inverse_log"),
    "augmentation": ("native", "albumentations"),
    "flips": ("none", "horizontal", "all"),
    "schedule": ("constant", "polynomial", "cosine"),
    "precision": ("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    "cache": ("none", "memory"),
}


def change(recipe, settings):
    """Return `recipe` with fields replaced, each given as "field=value".

    Values are read by the field's type: numbers, true/false, none, words, and comma-separated lists for tuples.

    Raises:
        InputError: not of the form field=value, an unknown field (all fields are listed), or a bad value.
    """
    kinds = typing.get_type_hints(Recipe)
    values = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"a setting is written field=value. Received: {setting!r}")
        if name not in kinds:
            raise InputError(f"no recipe field {name!r}; there are: {', '.join(kinds)}")
        try:
            values[name] = _parse(text, kinds[name])
        except ValueError as error:
            raise InputError(f"recipe field `{name}` must be {_describe(kinds[name])}. Received: {text!r}") from error
    return replace(recipe, **values)


def _parse(text, kind):
    if isinstance(kind, types.UnionType):
        if text.lower() in ("none", ""):
            return None
        return _parse(text, next(k for k in kind.__args__ if k is not types.NoneType))
    if typing.get_origin(kind) is tuple:
        kinds = typing.get_args(kind)
        parts = [part for part in text.strip("()[] ").split(",") if part]
        if kinds[-1] is ...:
            kinds = kinds[:1] * len(parts)
        if len(parts) != len(kinds):
            raise ValueError(text)
        return tuple(_parse(part.strip(), k) for part, k in zip(parts, kinds, strict=True))
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    return kind(text)


def _describe(kind):
    if isinstance(kind, types.UnionType):
        return " or ".join("none" if k is types.NoneType else _describe(k) for k in kind.__args__)
    if typing.get_origin(kind) is tuple:
        kinds = typing.get_args(kind)
        if kinds[-1] is ...:
            return f"a comma-separated list, each {_describe(kinds[0])}"
        return f"{len(kinds)} values with commas, each {_describe(kinds[0])}"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}[kind]


def recipe_to_json(recipe):
    """The fields as JSON text."""
    return json.dumps(asdict(recipe), indent=2) + "\n"


def recipe_from_json(text, where):
    """The recipe that `recipe_to_json` wrote.

    Raises:
        InputError: not such a text; `where` names its file.
    """
    known = {field.name for field in fields(Recipe)}
    try:
        values = json.loads(text)
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        if unknown := set(values) - known:
            raise InputError(f"{where}: unknown fields {sorted(unknown)}")
        return Recipe(**values)
    except (json.JSONDecodeError, AttributeError, TypeError) as error:
        raise InputError(f"{where}: not a recipe ({error})") from error
