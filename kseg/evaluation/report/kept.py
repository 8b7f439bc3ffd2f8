"""A run's small files, kept beside a page of results, so that anyone can make the page again without the run."""

import re
import shutil

import numpy as np
from PIL import Image

from kseg.errors import InputError
from kseg.evaluation.pictures import compose
from kseg.evaluation.report.commands import clean_command, without_folders
from kseg.evaluation.report.parts import open_panel
from kseg.files import replacing, write_json

# Of each of a panel's four pictures.
_TILE_PX = 247


def kept_entry(entry, folder):
    """Where `keep` puts an entry: Path."""
    return folder / re.sub(r"[^\w.-]+", "_", entry.name)


def kept_training(entry, training, folder):
    """Where `keep` puts one of its trainings: with several seeds in a folder of its own."""
    home = kept_entry(entry, folder)
    return home / training.folder.name if len(entry.trainings) > 1 else home


def check_kept_apart(entries, folder):
    """Raise InputError if two entries would be kept in one folder."""
    homes = {}
    for entry in entries:
        first = homes.setdefault(str(kept_entry(entry, folder)).lower(), entry)
        if first is not entry:
            raise InputError(f"{first.name} and {entry.name}: would be kept in one folder; give one another name")


def keep(entry, folder, with_pictures):
    """Keep the files of an entry's trainings that a page is made from; of the recipe and the command without folders
    of this machine.

    Args:
        entry: Entry. One that lies where it would be kept stays as it is; what else lies there is replaced.
        folder: Path of all kept runs.
        with_pictures: keep the best and the worst images of `entry.first`, too, as JPEG files small enough to lie
            beside the code.
    Raises:
        InputError: a picture of a run cannot be read, or the disk is full.
    """
    home = kept_entry(entry, folder).resolve()
    if any(home in (source, *source.parents) for source in (each.folder.resolve() for each in entry.trainings)):
        return
    pictures = [path for *_, path in entry.first.pictures] if with_pictures else []
    for path in pictures:
        open_panel(path)  # what is no panel must not get onto the page
    shutil.rmtree(home, ignore_errors=True)  # seeds that an earlier run of this name had, too
    for training in entry.trainings:
        target = kept_training(entry, training, folder)
        target.mkdir(parents=True)
        write_json(_without_folders(training.recipe), target / "recipe.json")
        if training.facts:
            command = clean_command(training.facts.get("command") or "", entry.name)
            write_json(_without_folders(training.facts) | {"command": command}, target / "run.json")
        for name in ("history.csv", "scores.json"):
            if (training.folder / name).is_file():
                with replacing(target / name) as temporary:
                    shutil.copyfile(training.folder / name, temporary)
        for path in pictures if training is entry.first else ():
            _keep_panel(path, target / "pictures" / f"{path.stem}.jpg")


def _without_folders(settings):
    return {name: without_folders(value) if isinstance(value, str) else value for name, value in settings.items()}


def _keep_panel(path, target):
    target.parent.mkdir(exist_ok=True)
    tiles = [tile for _, tile in open_panel(path)]
    share = min(1, _TILE_PX / tiles[0].width, 4 * _TILE_PX / tiles[0].height)
    size = [max(1, round(share * edge)) for edge in tiles[0].size]
    tiles = [np.asarray(tile.resize(size, Image.Resampling.LANCZOS)) for tile in tiles]
    with replacing(target) as temporary:
        Image.fromarray(compose(tiles)).save(temporary, "JPEG", quality=82, optimize=True)
