"""Which runs a command means, and what their folders hold."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from kseg.errors import InputError
from kseg.training.callbacks import ended_early
from kseg.training.checkpoint import read_state
from kseg.training.facts import samples_digest
from kseg.training.recipe import Recipe, change, recipe_from_json

RECIPE, LAST, BEST, HISTORY = "recipe.json", "last.keras", "best.keras", "history.csv"
FACTS, SCORES = "run.json", "scores.json"


@dataclass(frozen=True)
class Planned:
    """A run that is to be started or taken up: its recipe, its folder, and whether it is resumed."""

    recipe: Recipe
    folder: Path
    resume: bool


def plan(recipe, folder, seeds=None, resume=False, settings=(), chief=True):
    """The runs that a command means.

    Args:
        recipe: Recipe to start with.
        folder: of the run; with several seeds each one's folder in it is `seed_N`.
        seeds: whole numbers, or None for the recipe's own.
        resume: go on with what is there; seeds that are finished are left alone, new ones start.
        settings: what the user changed in the recipe, which a resumed run does not allow.
        chief: whether this process makes the folder, of several that train together.
    Returns:
        List of Planned, in the order of the seeds.
    Raises:
        InputError: a folder would be overwritten, there is nothing to resume, or a seed is there twice.
    """
    folder = Path(folder)
    if not resume and chief:
        check_new_folder(folder)
    if not seeds:
        return [Planned(resume_recipe(folder, settings) if resume else recipe, folder, resume)]
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise InputError(f"seeds must be different whole numbers from 0. Received: {', '.join(map(str, seeds))}")
    if any(setting.partition("=")[0].strip() == "seed" for setting in settings):
        raise InputError("--seeds sets the seeds; leave out --set seed=")
    if not resume:
        return [Planned(replace(recipe, seed=seed), folder / f"seed_{seed}", False) for seed in seeds]
    begun = {seed: (folder / f"seed_{seed}" / RECIPE).is_file() for seed in seeds}
    if not any(begun.values()):
        raise InputError(f"{folder}: no run of these seeds; there is nothing to resume")
    recipe = resume_recipe(folder / f"seed_{next(seed for seed in seeds if begun[seed])}", settings)
    runs = [Planned(replace(recipe, seed=seed), folder / f"seed_{seed}", begun[seed]) for seed in seeds]
    unfinished = [run for run in runs if not (run.folder / SCORES).is_file()]
    if not unfinished:
        raise InputError(f"{folder}: all seeds are done; nothing to resume")
    return unfinished


def is_trained(run, train_source, val_source):
    """Whether nothing is left of a Planned run but to score its best network.

    Raises:
        InputError: it was begun with other samples than those of these sources.
    """
    if not run.resume:
        return False
    check_samples(run.folder, train_source, val_source)
    if (run.folder / SCORES).exists() or not (run.folder / LAST).is_file():
        return False
    state = read_state(run.folder / LAST)
    return state["epoch"] + 1 >= run.recipe.epochs or ended_early(state["history"], run.recipe.patience)


def read_facts(folder):
    """What `run.json` says of a run (see `kseg.training.facts`): a dict, empty where the file is not there yet.

    Raises:
        InputError: the file is damaged.
    """
    path = Path(folder) / FACTS
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error}); remove it to resume without what it says") from error


def begun(runs, recipe):
    """What the first of these Planned that is resumed says of itself (`read_facts`), {} where all are new.

    Raises:
        InputError: it is not a run of the recipe that is called `recipe`, or its `run.json` is damaged.
    """
    run = next((run for run in runs if run.resume), None)
    about = {} if run is None else read_facts(run.folder)
    if about.get("recipe", recipe) != recipe:
        raise InputError(f"{run.folder}: is a run of the recipe {about['recipe']}. Received: {recipe}")
    return about


def check_samples(folder, train_source, val_source):
    """Refuse to go on with a run on other samples than it was begun with, as far as its `run.json` tells.

    Raises:
        InputError: the names, the order or the classes of the samples differ.
    """
    begun = read_facts(folder)
    if begun.get("samples") not in (None, samples_digest(train_source, val_source)):
        was = f"{begun.get('data')}, {', '.join(begun.get('splits', ()))}, {begun.get('images')} images"
        raise InputError(f"{folder}: was begun with other samples ({was}); resume with the same --data and --splits")


def check_new_folder(folder):
    """Refuse a folder that a new run would overwrite.

    Raises:
        InputError: it holds something already.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: not empty; go on with its run by --resume, or choose another --out")


def best_network(folder):
    """Path of the network with the highest validation mean IoU of a run that has ended.

    Raises:
        InputError: the network overflowed in each validation, while its losses in training were finite.
    """
    path = Path(folder) / BEST
    if not path.is_file():
        raise InputError(f"{folder}: no validation gave a finite score; start anew with a lower learning_rate")
    return path


def resume_recipe(folder, settings=()):
    """The recipe that a run was started with, changed by `settings` as far as that leaves it the same run.

    Raises:
        InputError: no run there, or a setting that would make it another run.
    """
    path = Path(folder) / RECIPE
    if not path.is_file():
        if seeds := sorted(int(each.parent.name[5:]) for each in Path(folder).glob(f"seed_*[0-9]/{RECIPE}")):
            raise InputError(f"{folder}: holds runs of several seeds; say which: --seeds {' '.join(map(str, seeds))}")
        raise InputError(f"{folder}: no {RECIPE}; there is no run to resume")
    recipe = recipe_from_json(path.read_text(), path)
    changed = change(recipe, settings)
    if changed != recipe:
        raise InputError(f"{folder}: a resumed run keeps its recipe; leave out --set or start a new run")
    return recipe
