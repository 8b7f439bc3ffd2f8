"""What elastic deformation, border weights and hard pixels cost, in milliseconds of processor time.

    python tests/benchmarks/augmentation.py --data membranes

Each round measures every row once, so that a busy machine slows all rows alike; the table gives the smallest time and
the median. Training crops are those of the recipe membranes_unet, from decoded images in memory.
"""

import argparse
import os
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import numpy as np
import tensorflow as tf

from kseg import data, losses
from kseg.training.recipes import find_recipe
from kseg.training.run import training_stream


def streams(source):
    """Name -> (crops, function that takes one epoch of crops by some of the recipe's settings)."""
    whole = replace(find_recipe("membranes_unet"), epochs=1)
    recipes = {
        "crop: flips, turns, colour": replace(whole, elastic_px=0.0, border_weight=0.0),
        "crop, elastic": replace(whole, border_weight=0.0),
        "crop, border weights": replace(whole, elastic_px=0.0),
        "crop, elastic, border weights": whole,
    }
    crops = whole.repeats * data.steps_per_epoch(source, whole.batch) * whole.batch
    # Whole epochs: nothing is fetched ahead while another row is measured.
    return {name: (crops, partial(_take_all, training_stream(recipe, source))) for name, recipe in recipes.items()}


def _take_all(batches):
    for _ in batches:
        pass


def pixel_losses():
    """Name -> (crops, function that computes loss and gradient for 8 crops of 320x320 in 11 classes)."""
    rng = np.random.default_rng(0)
    labels = tf.constant(rng.integers(0, 11, (8, 320, 320)), tf.int32)
    logits = tf.constant(rng.normal(size=(8, 320, 320, 11)), tf.float32)

    def step(loss):
        @tf.function
        def run():
            with tf.GradientTape() as tape:
                tape.watch(logits)
                value = loss(labels, logits)
            return tape.gradient(value, logits)

        return run

    return {f"loss {name}": (8, step(getattr(losses, name))) for name in ("cross_entropy", "hard_pixels")}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="data set with 512x512 images, such as the membranes")
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args(arguments)
    source = data.open_source(options.data, "train")
    rows = {**streams(source), **pixel_losses()}
    times = {name: [] for name in rows}
    for _ in range(options.rounds + 1):  # the first round decodes the images
        for name, (_, run) in rows.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    for name, (images, _) in rows.items():
        ms = 1000 * np.array(times[name][1:]) / images
        print(
            f"{name:32} {ms.min():7.2f} ms an image (median {np.median(ms):.2f}), {1000 / np.median(ms):.0f} a second"
        )


if __name__ == "__main__":
    main()
