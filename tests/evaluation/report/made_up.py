"""Folders of runs that no network was trained for."""

import json
import zipfile

import numpy as np

from kseg.evaluation import pictures
from kseg.labels import LabelSet

LABELS = LabelSet(("background", "nucleus"), ((0, 0, 0), (255, 200, 0)))
STREETS = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
COMMAND = "/opt/env/bin/python tools/train.py nuclei_unet --data /home/me/data/nuclei --out /home/me/runs/a"


def scores(mean_iou, classes=LABELS.names, **more):
    """Content of a scores.json of 6 images."""
    each = [{"name": f"{i}.png", "mean_iou": mean_iou - 0.05 * i, "pixel_accuracy": 0.9} for i in range(5)]
    return {
        "images": 6,
        "pixel_accuracy": mean_iou + 0.1,
        "mean_accuracy": 0.8,
        "mean_iou": mean_iou,
        "frequency_weighted_iou": 0.8,
        "mean_dice": mean_iou + 0.05,
        "iou": dict.fromkeys(classes, mean_iou),
        "confusion_matrix": (np.eye(len(classes), dtype=int) * 90 + 10).tolist(),
        "per_image": [*each, {"name": "void.png", "mean_iou": None, "pixel_accuracy": None}],
        **more,
    }


def make_run(folder, result=None, facts=None, labels=LABELS, epochs=3, **recipe):
    """Write a run's files; without `result` one that is not finished, without `facts` one of an older version."""
    folder.mkdir(parents=True)
    recipe = {"model": "UNet", "backbone": None, "learning_rate": 0.001, "epochs": 3, "seed": 0} | recipe
    (folder / "recipe.json").write_text(json.dumps(recipe))
    lines = ["epoch,learning_rate,loss,mean_iou,seconds,val_loss,val_mean_iou"]
    rate = recipe["learning_rate"]
    for epoch in range(1, epochs + 1):
        loss = 1000 * rate / epoch
        validation = f"{2 * loss},0.5" if epoch % 2 else ","
        lines.append(f"{epoch},{rate / epoch},{loss},{0.3 + 0.1 * epoch},20,{validation}")
    (folder / "history.csv").write_text("\n".join(lines) + "\n")
    with zipfile.ZipFile(folder / "best.keras", "w") as members:
        members.writestr("labels.json", json.dumps(labels.to_dict()))
    if facts is not None:
        (folder / "run.json").write_text(json.dumps(facts))
    if result is not None:
        (folder / "scores.json").write_text(json.dumps(result))
        (folder / "pictures").mkdir()
        image = np.full((12, 16, 3), 90, np.uint8)
        mask = np.tile(np.arange(16) // 8, (12, 1))
        for end in ("best_1", "best_2", "worst_1"):
            pictures.save_panel(image, mask, 1 - mask, labels, folder / "pictures" / f"{end}_0.png")
    return folder


def facts(**more):
    """Content of a run.json."""
    return {
        "command": COMMAND,
        "kseg": "0.3.0",
        "keras": "3.15.1",
        "backend": "tensorflow 2.21.0",
        "machine": "a machine, 2 cores",
        "precision": "float32",
        "data": "/home/me/data/nuclei",
        "splits": ["train", "val"],
        "images": [12, 6],
        "parameters": 524_288,
        "seconds": 754.0,
        **more,
    }
