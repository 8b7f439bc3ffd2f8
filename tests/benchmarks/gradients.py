"""How far gradients in half precision are from those in float32, for each kind of network.

A network is trained for a few steps in float32 on crops of the bundled nuclei. Then both precisions compute the
gradients of the same batches with the same weights:

- cosine: of the gradients of all weights as one vector; 1 is the same direction;
- middle and worst: of the relative errors |half - float32| / |float32| of single weights' gradients, summed over the
  batches. Gradients that are zero but for rounding (a shift before a normalisation has none) are left out.

"float32, images changed" is the yardstick: float32 again, each value of the images changed by 0.2 %, about what
rounding to bfloat16 does. `--layers keras` puts Keras's own convolutions in the place of `kseg.layers`, whose biases
have another gradient. The Keras backend is that of KERAS_BACKEND.
"""

import os
import sys

import numpy as np

from kseg import cli

EXAMPLES = """
python tests/benchmarks/gradients.py
KERAS_BACKEND=jax python tests/benchmarks/gradients.py --only unet --layers kseg keras
python tests/benchmarks/gradients.py --only unet unet_mobilenet --steps 0 --batches 1
"""
NETWORKS = {
    "unet": ("UNet", {"filters": 8}),
    "unet_bilinear": ("UNet", {"filters": 8, "upsampling": "bilinear"}),
    "unet_normalised": ("UNet", {"filters": 8, "batch_normalization": True}),
    "unet_mobilenet": (
        "UNet",
        {"backbone": "mobilenet_v2", "alpha": 0.35, "filters": 4, "batch_normalization": True},
    ),
    "fcn8s": ("FCN8s", {"alpha": 0.25, "fc_units": 64, "dropout": 0}),
    "deeplab": ("DeepLabV3Plus", {"alpha": 0.25, "filters": 32, "dropout": 0}),
}
HEADINGS = ("network", "against float32", "cosine", "middle", "worst", "of")
_ROUNDING = 1e-6  # of the gradient of all weights


def _arguments(argv):
    parser = cli.parser(__doc__, EXAMPLES)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=[*NETWORKS], help="default: all")
    parser.add_argument("--layers", nargs="+", choices=("kseg", "keras"), default=["kseg"], help="default: kseg")
    parser.add_argument("--precision", default="mixed_bfloat16", choices=("mixed_bfloat16", "mixed_float16"))
    parser.add_argument("--steps", type=int, default=30, help="of training in float32 before; default: 30")
    parser.add_argument("--batches", type=int, default=4, help="whose gradients are summed; default: 4")
    return parser.parse_args(argv)


@cli.command
def main(argv=None):
    """Compare the gradients; print one table in Markdown."""
    args = _arguments(argv)
    import keras

    from kseg import data

    source = data.nuclei("train")
    batches = data.training_batches(source, crop_px=(128, 128), batch=8, epochs=1 + (args.steps + args.batches) // 3)
    print(f"Keras {keras.version()} on {keras.backend.backend()}, {args.precision}\n")
    print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}")
    for name in args.only:
        network = _trained(name, batches, args.steps)
        held = [tuple(np.asarray(part) for part in batch) for batch in batches.take(args.batches)]
        full = _gradients(_rebuilt(name, network, "kseg", "float32"), held)
        others = {"float32, images changed": _gradients(_rebuilt(name, network, "kseg", "float32"), _changed(held))}
        for layers in args.layers:
            others[f"layers of {layers}"] = _gradients(_rebuilt(name, network, layers, args.precision), held)
        for other, gradients in others.items():
            print(f"| {' | '.join((name, other, *_cells(network, full, gradients)))} |", flush=True)
    return 0


def _trained(name, batches, steps):
    import keras

    from kseg import losses

    keras.utils.set_random_seed(0)
    network = _build(name)
    network.compile(keras.optimizers.Adam(1e-3), losses.CrossEntropy())
    if steps:
        network.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0)
    return network


def _build(name):
    from kseg import applications

    builder, options = NETWORKS[name]
    return getattr(applications, builder)(classes=2, **options)


def _changed(batches):
    noise = np.random.default_rng(0).normal
    return [(images * (1 + 2e-3 * noise(size=images.shape)).astype(np.float32), *more) for images, *more in batches]


def _rebuilt(name, network, layers, policy):
    """The network in another precision, and with Keras's own convolutions if `layers` says so; the same weights."""
    import keras

    from kseg import layers as own

    plain = {own.Conv2D: keras.layers.Conv2D, own.Conv2DTranspose: keras.layers.Conv2DTranspose}

    def clone(layer):
        kind = plain.get(type(layer), type(layer)) if layers == "keras" else type(layer)
        return kind.from_config(layer.get_config())

    keras.config.set_dtype_policy(policy)
    try:
        copy = keras.models.clone_model(_build(name), clone_function=clone)
    finally:
        keras.config.set_dtype_policy("float32")
    copy.set_weights(network.get_weights())
    return copy


def _gradients(network, batches):
    """Sums over the batches, in float64, of the gradient of each trainable weight."""
    import keras

    from kseg import losses

    step = {"tensorflow": _on_tensorflow, "jax": _on_jax}[keras.backend.backend()](network, losses.CrossEntropy())
    return [sum(np.asarray(g, np.float64) for g in each) for each in zip(*map(step, batches), strict=True)]


def _on_tensorflow(network, loss):
    import tensorflow as tf

    @tf.function
    def step(images, labels):
        with tf.GradientTape() as tape:
            value = loss(labels, network(images, training=True))
        return tape.gradient(value, [w.value for w in network.trainable_variables])

    return lambda batch: step(*batch[:2])


def _on_jax(network, loss):
    import jax

    fixed = [v.value for v in network.non_trainable_variables]

    def value(weights, images, labels):
        return loss(labels, network.stateless_call(weights, fixed, images, training=True)[0])

    step = jax.jit(jax.grad(value))
    return lambda batch: step([v.value for v in network.trainable_variables], *batch[:2])


def _cells(network, full, other):
    one, two = (np.concatenate([g.ravel() for g in gradients]) for gradients in (full, other))
    lengths = [np.linalg.norm(g) for g in full]
    errors = {
        weight.path: np.linalg.norm(o - f) / length
        for weight, f, o, length in zip(network.trainable_weights, full, other, lengths, strict=True)
        if length > _ROUNDING * np.linalg.norm(one)
    }
    worst = max(errors, key=errors.get)
    cosine = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
    return f"{cosine:.4f}", f"{np.median([*errors.values()]):.1%}", f"{errors[worst]:.1%}", worst


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(main())
