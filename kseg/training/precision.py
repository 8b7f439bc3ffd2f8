"""Which dtype policy suits the devices at hand."""

from pathlib import Path

import keras


def choose_precision(precision="auto"):
    """Return the name of a Keras dtype policy.

    Args:
        precision: a policy's name, returned as it is, or "auto": `mixed_float16` where there is a GPU (its
            optimizer scales the loss), `mixed_bfloat16` on a TPU or on a CPU with bfloat16 instructions,
            `float32` on other CPUs, where half precision is emulated and slower.
    """
    if precision != "auto":
        return precision
    device = _device()
    if device == "gpu":
        return "mixed_float16"
    return "mixed_bfloat16" if device == "tpu" or _cpu_has_bfloat16() else "float32"


def _device():
    """Return "gpu", "tpu" or "cpu": what the Keras backend would compute on."""
    if keras.backend.backend() == "jax":
        import jax

        platform = jax.devices()[0].platform
        return {"cuda": "gpu", "rocm": "gpu"}.get(platform, platform)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return next((kind.lower() for kind in ("GPU", "TPU") if tf.config.list_physical_devices(kind)), "cpu")
    return "cpu"


def _cpu_has_bfloat16():
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:  # not Linux: take the safe choice
        return False
    return bool(flags & {"amx_bf16", "avx512_bf16"})
