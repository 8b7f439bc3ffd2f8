"""Recipe + data -> a trained network in a folder of its own; and, for a `model.fit` of one's own, what recipes use."""

from kseg.training.averaging import AveragedWeights, averaged
from kseg.training.checkpoint import load_model, save_model
from kseg.training.distribution import KINDS, Placement, place
from kseg.training.optimizers import SGD, Adam, AdamW, WarmupPolynomial
from kseg.training.plan import Planned, begun, best_network, check_new_folder, is_trained, plan, resume_recipe
from kseg.training.recipe import Recipe, change
from kseg.training.recipes import RECIPES, find_recipe
from kseg.training.run import Run, read_history, train
from kseg.training.supervision import DeeplySupervised, deeply_supervised

__all__ = [
    "KINDS",
    "RECIPES",
    "SGD",
    "Adam",
    "AdamW",
    "AveragedWeights",
    "DeeplySupervised",
    "Placement",
    "Planned",
    "Recipe",
    "Run",
    "WarmupPolynomial",
    "averaged",
    "begun",
    "best_network",
    "change",
    "check_new_folder",
    "deeply_supervised",
    "find_recipe",
    "is_trained",
    "load_model",
    "place",
    "plan",
    "read_history",
    "resume_recipe",
    "save_model",
    "train",
]
