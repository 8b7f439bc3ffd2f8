"""Recipe + data -> a trained network in a folder of its own."""

from kseg.training.checkpoint import load_model, save_model
from kseg.training.distribution import KINDS, Placement, place
from kseg.training.recipes import RECIPES, Recipe, change, find_recipe
from kseg.training.run import Run, check_new_folder, read_history, resume_recipe, train

__all__ = [
    "KINDS",
    "RECIPES",
    "Placement",
    "Recipe",
    "Run",
    "change",
    "check_new_folder",
    "find_recipe",
    "load_model",
    "place",
    "read_history",
    "resume_recipe",
    "save_model",
    "train",
]
