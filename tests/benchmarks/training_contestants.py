"""One contestant of training.py: python training_contestants.py MAKER PRECISION FILTERS SIZE BATCH.

Says on stdout, as a line of JSON, what it is, or why it cannot run; then for each line on stdin does every kind of work
once and answers with {work: [wall seconds, CPU seconds] of one repetition}.
"""

import json
import math
import os
import sys
import time
from functools import partial

import numpy as np

CLASSES = 21
LEARNING_RATE = 1e-4
# Of Keras's batch normalisation, for PyTorch's; what Keras calls momentum is one minus this.
EPSILON, MOMENTUM = 1e-3, 0.01
# A turn lasts about this long for each kind of work.
TURN_SECONDS = 1.0
# The matrices grow until their product takes this long.
PRODUCT_SECONDS, FIRST_SIDE, LAST_SIDE = 0.05, 512, 16384


def main(maker, precision, filters, size_px, batch):
    """Be that contestant until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    say = partial(print, file=answers, flush=True)
    try:
        contest = _pytorch if maker == "pytorch" else partial(_keras, fused=maker == "kseg")
        facts, works = contest(precision, int(filters), *_images(int(size_px), int(batch)))
        repetitions = {work: max(1, round(TURN_SECONDS / timed(1)[0])) for work, timed in works.items()}
        say(json.dumps(facts))
        for _ in sys.stdin:
            say(json.dumps({work: timed(repetitions[work]) for work, timed in works.items()}))
    except Exception as error:  # whatever it is, the others go on without this one
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        say(json.dumps({"failure": reason.replace("|", "\\|")}))


def _images(size_px, batch):
    """(images float32 [B, H, W, 3] in 0..255, labels int32 [B, H, W])."""
    rng, shape = np.random.default_rng(0), (batch, size_px, size_px)
    return rng.integers(0, 256, (*shape, 3)).astype(np.float32), rng.integers(0, CLASSES, shape).astype(np.int32)


def _timed(run, wait):
    """A function of a number of repetitions that returns [wall, CPU] seconds of one `run()`, after one that does not
    count; `wait(result)` returns once a result is there."""

    def timed(repetitions):
        wait(run())
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(repetitions):
            result = run()
        wait(result)
        return [(time.perf_counter() - wall) / repetitions, (time.process_time() - cpu) / repetitions]

    return timed


def _product(multiply, wait):
    """(multiplications and additions, timed function) of a product of matrices that takes long enough.

    Args:
        multiply: side -> a function that returns the product of two such square matrices.
    """
    side = FIRST_SIDE
    while True:
        timed = _timed(multiply(side), wait)
        if timed(2)[0] >= PRODUCT_SECONDS or side >= LAST_SIDE:
            return 2 * side**3, timed
        side *= 2


# ---- kseg's network, on TensorFlow or JAX


def _keras(precision, filters, images, labels, fused):
    import keras

    from kseg import applications, losses
    from kseg.training.optimizers import Adam

    on_jax = keras.backend.backend() == "jax"
    keras.config.set_dtype_policy(precision)
    size = images.shape[1:]
    model = applications.UNet(input_shape=size, classes=CLASSES, filters=filters, batch_normalization=True)
    if not fused:
        model = keras.models.clone_model(model, clone_function=_with_keras_normalisation)
    model.compile((Adam if fused else keras.optimizers.Adam)(LEARNING_RATE), losses.CrossEntropy(), jit_compile=on_jax)
    predict, multiply, device, library = (_on_jax if on_jax else _on_tensorflow)(model, images)

    def wait(result):
        float(result[(0,) * len(result.shape)])

    product_flop, product = _product(partial(multiply, precision.removeprefix("mixed_")), wait)
    facts = {
        "device": device,
        "library": f"{library}, Keras {keras.__version__}",
        "parameters": sum(math.prod(weight.shape) for weight in model.trainable_weights),
        "flop": len(images) * sum(_flop(layer) for layer in model.layers),
        "product_flop": product_flop,
    }
    return facts, {"train": _fit(model, images, labels), "predict": _timed(predict, wait), "product": product}


def _with_keras_normalisation(layer):
    import keras

    config = layer.get_config()
    return (keras.layers.BatchNormalization if "_bn" in layer.name else type(layer)).from_config(config)


def _on_tensorflow(model, images):
    import tensorflow as tf

    given, call = tf.constant(images), tf.function(partial(model, training=False))

    def multiply(dtype, side):
        matrix = tf.cast(tf.random.normal((side, side)), dtype)
        return partial(tf.function(tf.matmul), matrix, matrix)

    device = "gpu" if tf.config.list_physical_devices("GPU") else "cpu"
    return lambda: call(given), multiply, device, f"TensorFlow {tf.__version__}"


def _on_jax(model, images):
    import jax

    weights = [[v.value for v in part] for part in (model.trainable_variables, model.non_trainable_variables)]
    weights = jax.tree.map(jax.numpy.copy, weights)  # training gives the model's own away
    given, call = jax.device_put(images), jax.jit(lambda *inputs: model.stateless_call(*inputs, training=False)[0])

    def multiply(dtype, side):
        matrix = jax.random.normal(jax.random.key(0), (side, side)).astype(dtype)
        return partial(jax.jit(jax.numpy.matmul), matrix, matrix)

    device = "gpu" if jax.default_backend() in ("gpu", "cuda", "rocm") else jax.default_backend()
    kind = jax.devices()[0].device_kind
    return lambda: call(*weights, given), multiply, device, f"JAX {jax.__version__} on {kind}"


def _fit(model, images, labels):
    """`model.fit`, timed from the end of its first step to the end of its last."""
    import keras

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, step, logs=None):
            if step in (0, self.params["steps"] - 1):
                float(logs["loss"])  # waits for the device
                self.times = [*getattr(self, "times", ()), (time.perf_counter(), time.process_time())]

    def timed(repetitions):
        clock, batches = Clock(), _same_batch(images, labels, repetitions + 1)
        model.fit(batches, steps_per_epoch=repetitions + 1, verbose=0, callbacks=[clock], shuffle=False)
        first, last = clock.times
        return [(end - start) / repetitions for start, end in zip(first, last, strict=True)]

    return timed


def _same_batch(images, labels, steps):
    """What `fit` reads: on TensorFlow a tf.data.Dataset, as kseg's pipelines are.

    A Python generator would slow every step down: once a process has fed TensorFlow from one, it hands freed memory
    back to the system at once (malloc's M_TRIM_THRESHOLD, 128 KB) and takes the pages anew for each tensor.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        return ((images, labels) for _ in range(steps))
    import tensorflow as tf

    return tf.data.Dataset.from_tensors((images, labels)).repeat(steps)


def _flop(layer):
    """Multiplications and additions of one image forward; convolutions only, all else is next to nothing."""
    kind = type(layer).__name__
    if not kind.startswith("Conv2D"):
        return 0
    pixels = layer.input if kind == "Conv2DTranspose" else layer.output  # each of these meets the whole kernel
    return 2 * math.prod(pixels.shape[1:3]) * math.prod(layer.kernel.shape)


# ---- the same in PyTorch


def _pytorch(precision, filters, images, labels):
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")  # TF32, as in its convolutions and in the other libraries
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = _torch_unet(filters).to(device, memory_format=torch.channels_last)
    given = torch.tensor(images).permute(0, 3, 1, 2).to(device, memory_format=torch.channels_last)
    truth = torch.tensor(labels).long().to(device)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    scaler = torch.amp.GradScaler(device, enabled=precision == "mixed_float16")
    dtype = getattr(torch, precision.removeprefix("mixed_"))
    autocast = partial(torch.autocast, device, dtype, enabled=precision != "float32")

    def train():
        model.train()
        optimizer.zero_grad()
        with autocast():
            scores = model(given)
        loss = torch.nn.functional.cross_entropy(scores.float(), truth)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    def predict():
        model.eval()
        with torch.inference_mode(), autocast():
            return model(given)

    def multiply(side):
        matrix = torch.randn(side, side, device=device).to(dtype)
        return lambda: matrix @ matrix

    def wait(result):
        result.flatten()[0].item()

    product_flop, product = _product(multiply, wait)
    facts = {
        "device": "gpu" if device == "cuda" else device,
        "library": f"PyTorch {torch.__version__}",
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "flop": _torch_flop(model, given),
        "product_flop": product_flop,
    }
    return facts, {"train": _timed(train, wait), "predict": _timed(predict, wait), "product": product}


def _torch_unet(filters, depth=4):
    from torch import cat, nn

    def two_convolutions(inputs, channels):
        parts = []
        for taken in (inputs, channels):
            convolution = nn.Conv2d(taken, channels, 3, padding="same", bias=False)
            parts += [convolution, nn.BatchNorm2d(channels, EPSILON, MOMENTUM), nn.ReLU(inplace=True)]
        return nn.Sequential(*parts)

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            widths = [filters * 2**level for level in range(depth + 1)]
            pairs = list(zip(widths[1:], widths, strict=False))  # (coarser, finer)
            self.down = nn.ModuleList(map(two_convolutions, [3, *widths], widths))
            self.enlarge = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, 2) for coarse, fine in reversed(pairs))
            self.up = nn.ModuleList(two_convolutions(coarse, fine) for coarse, fine in reversed(pairs))
            self.score = nn.Conv2d(filters, CLASSES, 1)

        def forward(self, images):
            x, skips = images / 255, []
            for level, stage in enumerate(self.down):
                x = stage(nn.functional.max_pool2d(x, 2) if level else x)
                skips.append(x)
            for enlarge, stage, skip in zip(self.enlarge, self.up, skips[-2::-1], strict=True):
                x = stage(cat([skip, enlarge(x)], dim=1))
            return self.score(x)

    return UNet()


def _torch_flop(model, images):
    """As `_flop`, of a batch."""
    import torch

    flop = []

    def count(layer, inputs, output):
        pixels = inputs[0] if isinstance(layer, torch.nn.ConvTranspose2d) else output
        flop.append(2 * len(pixels) * math.prod(pixels.shape[2:]) * layer.weight.numel())

    kinds = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)
    hooks = [layer.register_forward_hook(count) for layer in model.modules() if isinstance(layer, kinds)]
    with torch.inference_mode():
        model.eval()(images)
    for hook in hooks:
        hook.remove()
    return sum(flop)


if __name__ == "__main__":
    main(*sys.argv[1:])
