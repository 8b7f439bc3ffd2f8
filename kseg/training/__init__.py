"""Recipe + data -> a trained network in a folder of its own."""

from kseg.training.checkpoint import load_model, save_model
from kseg.training.recipes import RECIPES, Recipe, change, find_recipe
from kseg.training.run import Run, read_history, resume_recipe, start_folder, train

__all__ = [
    "RECIPES",
    "Recipe",
    "Run",
    "change",
    "find_recipe",
    "load_model",
    "read_history",
    "resume_recipe",
    "save_model",
    "start_folder",
    "train",
]
