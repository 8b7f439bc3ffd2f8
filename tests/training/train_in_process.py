"""Run by test_distribution.py in processes of their own: python train_in_process.py DATA RUN OUT.npz ARGUMENTS.

Trains as tools/train.py does (--distribute, --resume, --set), and writes what this process ended with to OUT.npz.
"""

import argparse
import json
import sys

import numpy as np

from kseg import cli, data, training
from kseg.training import run as training_run


@cli.command
def main(argv):
    parser = argparse.ArgumentParser()
    for name in ("data", "run", "out"):
        parser.add_argument(name)
    parser.add_argument("--distribute")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[])
    args = parser.parse_args(argv)
    if args.devices > 1:
        _split_cpu(args.devices)
    recipe = training.change(training.find_recipe("nuclei_unet"), args.set)
    if args.resume:
        recipe = training.resume_recipe(args.run)
    sources = [data.open_source(args.data, split) for split in ("train", "val")]
    models, build = [], training_run.build_trainer

    def keep(*what):
        models.append(build(*what))
        return models[-1]

    training_run.build_trainer = keep
    found = training.train(recipe, *sources, args.run, args.resume, placement=training.place(args.distribute))
    history = json.dumps([{k: v for k, v in entry.items() if k != "seconds"} for entry in found.history])
    weights = {f"{i:03}": np.asarray(variable.value) for i, variable in enumerate(models[0].weights)}
    np.savez(args.out, history=history, **weights)


def _split_cpu(devices):
    """Let TensorFlow see this processor as several devices (JAX takes that from XLA_FLAGS)."""
    import tensorflow as tf

    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
