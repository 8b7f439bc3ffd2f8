"""What a run is to be judged by beside its scores: the command, the versions, the machine."""

import hashlib
import os
from pathlib import Path

import keras

from kseg import __version__


def facts(precision, parameters, about):
    """For `run.json`, which `kseg.evaluation` and readers of a run's folder go by.

    Args:
        precision: name of the dtype policy.
        parameters: number of the network's weights.
        about: dict of what the caller knows: "command", "recipe", "data", "splits", "images", "samples".
    Returns:
        dict with these and "kseg", "keras", "backend", "machine".
    """
    return {
        **about,
        "kseg": __version__,
        "keras": keras.__version__,
        "backend": f"{keras.backend.backend()} {_backend_version()}",
        "machine": machine(),
        "precision": precision,
        "parameters": int(parameters),
    }


def samples_digest(*sources):
    """Short text that differs where the samples of these sources do: their names, order, or classes."""
    text = repr([(source.names, source.labels.to_dict()) for source in sources])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def machine():
    """What computes, in words: "NVIDIA H200", or "AMD EPYC, 2 cores"."""
    accelerators = _accelerators()
    if accelerators:
        return ", ".join(f"{accelerators.count(name)} x {name}" for name in dict.fromkeys(accelerators)).removeprefix(
            "1 x "
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor()}, {cores} cores"


def _accelerators():
    if keras.backend.backend() == "jax":
        import jax

        return [device.device_kind for device in jax.devices() if device.platform != "cpu"]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        devices = tf.config.list_physical_devices("GPU")
        return [tf.config.experimental.get_device_details(one).get("device_name", "GPU") for one in devices]
    return []


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return "CPU"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")


def _backend_version():
    if keras.backend.backend() == "jax":
        import jax

        return jax.__version__
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.__version__
    return ""
