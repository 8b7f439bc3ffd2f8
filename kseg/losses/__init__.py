"""Losses for label masks, from logits, always computed in float32.

As functions `(labels, logits, ignore=None, ...)` and as Keras losses for `model.compile(loss=...)`:

    model.compile("adam", loss=WeightedSum([CrossEntropy(ignore=255), SoftDice(ignore=255)], [1.0, 0.5]))

What holds for all of them: ignored pixels contribute nothing; a batch of only ignored pixels gives 0 and zero
gradients; a label that is neither a class nor `ignore` gives NaN (a graph cannot raise), while the gradients stay
those of the valid pixels. Under `tf.distribute` each replica takes its own mean, and the means are averaged.
"""

from kseg.losses.classes import (
    CrossEntropy,
    Focal,
    HardPixels,
    LovaszSoftmax,
    SoftDice,
    SoftJaccard,
    Tversky,
    WeightedSum,
)
from kseg.losses.overlap import lovasz_softmax, soft_dice, soft_jaccard, tversky
from kseg.losses.pixelwise import cross_entropy, focal, hard_pixels

__all__ = [
    "CrossEntropy",
    "Focal",
    "HardPixels",
    "LovaszSoftmax",
    "SoftDice",
    "SoftJaccard",
    "Tversky",
    "WeightedSum",
    "cross_entropy",
    "focal",
    "hard_pixels",
    "lovasz_softmax",
    "soft_dice",
    "soft_jaccard",
    "tversky",
]
