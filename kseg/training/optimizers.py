"""A recipe's optimizer: its schedule, and learning rates of their own for some layers."""

import keras
from keras import ops

from kseg.applications.transplant import copy_of
from kseg.errors import InputError, need
from kseg.training.averaging import averaged_pairs


class _LayerRates:
    """Gives layers a share of the learning rate, by how their names begin; of several beginnings the longest counts.

    Before a Keras optimizer in the list of bases. Weight decay that is decoupled keeps the whole rate. It also clips
    and averages as a run in several parts, on several devices, needs it.
    """

    def __init__(self, *args, layer_rates=None, **kwargs):
        super().__init__(*args, **kwargs)
        # Not a plain dict: Keras would track it as a part with a state.
        self._layer_rates = tuple((str(name), float(rate)) for name, rate in (layer_rates or {}).items())

    def update_step(self, gradient, variable, learning_rate):
        # By index: under tf.distribute `variable` is TensorFlow's, which has no path.
        path = self._trainable_variables[self._get_variable_index(variable)].path
        rates = [(len(name), rate) for name, rate in self._layer_rates if path.startswith(name)]
        if rates:
            learning_rate = ops.cast(learning_rate, "float32") * max(rates)[1]
        super().update_step(gradient, variable, learning_rate)

    def _clip_gradients(self, grads):
        """By the norm over the whole batch: under tf.distribute, Keras clips each device's share by its own norm."""
        devices = 1
        if self.global_clipnorm and keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            context = tf.distribute.get_replica_context()
            devices = context.num_replicas_in_sync if context else 1
        if devices == 1:
            return super()._clip_gradients(grads)
        whole = [gradient for gradient, _ in self._all_reduce_sum_gradients(zip(grads, grads, strict=True))]
        # Keras adds up what the devices return.
        return [None if gradient is None else gradient / devices for gradient in super()._clip_gradients(whole)]

    def finalize_variable_values(self, var_list):
        """Nothing: Keras would replace the weights by their average at the end of each `fit`, and so in mid-training
        where a run has several parts. `AveragedWeights` shows the average where it is wanted."""

    def get_config(self):
        return {**super().get_config(), "layer_rates": dict(self._layer_rates)}


class _OneOperation:
    """Takes Adam's step in TensorFlow's one operation for it; Keras makes twelve, each a pass over all weights.

    Before a Keras optimizer in the list of bases. Other backends and `amsgrad` are left to Keras.
    Reference: Kingma & Ba 2015, the form before section 2.1 with alpha_t; its epsilon is Keras's, too.
    """

    def update_step(self, gradient, variable, learning_rate):
        if keras.backend.backend() != "tensorflow" or self.amsgrad or variable.dtype.name != "float32":
            super().update_step(gradient, variable, learning_rate)
            return
        tf = need("tensorflow", "cpu")
        place, step = self._get_variable_index(variable), tf.cast(self.iterations + 1, "float32")
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[place].value.handle,
            v=self._velocities[place].value.handle,
            beta1_power=tf.pow(self.beta_1, step),
            beta2_power=tf.pow(self.beta_2, step),
            lr=tf.cast(learning_rate, "float32"),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.cast(gradient, "float32"),
        )


@keras.saving.register_keras_serializable("kseg")
class AdamW(_LayerRates, _OneOperation, keras.optimizers.AdamW):
    """keras.optimizers.AdamW, in which layers may have a rate of their own.

    Args:
        layer_rates: {beginning of layer names: factor of the learning rate}, or None. All else as in Keras.
    """


@keras.saving.register_keras_serializable("kseg")
class Adam(_LayerRates, _OneOperation, keras.optimizers.Adam):
    """keras.optimizers.Adam, in which layers may have a rate of their own: see `AdamW`."""


@keras.saving.register_keras_serializable("kseg")
class SGD(_LayerRates, keras.optimizers.SGD):
    """keras.optimizers.SGD, in which layers may have a rate of their own: see `AdamW`."""


OPTIMIZERS = {"adamw": AdamW, "adam": Adam, "sgd": SGD}


def build_optimizer(recipe, steps, layer_rates=None):
    """The recipe's optimizer with its learning-rate schedule over `steps` batches.

    Args:
        recipe: Recipe.
        steps: batches of the whole run.
        layer_rates: {beginning of layer names: factor of the learning rate}, or None.
    Raises:
        InputError: no such optimizer.
    """
    if recipe.optimizer not in OPTIMIZERS:
        raise InputError(f"no optimizer {recipe.optimizer!r}; there are: {', '.join(OPTIMIZERS)}")
    options = {"momentum": 0.9, "nesterov": True} if recipe.optimizer == "sgd" else {}
    if recipe.optimizer != "adam":
        options["weight_decay"] = recipe.weight_decay
    if recipe.average is not None:
        options |= {"use_ema": True, "ema_momentum": recipe.average}
    if recipe.accumulate > 1:
        options["gradient_accumulation_steps"] = recipe.accumulate
    return OPTIMIZERS[recipe.optimizer](
        _schedule(recipe, steps), layer_rates=layer_rates, global_clipnorm=recipe.clip_norm, **options
    )


def _schedule(recipe, steps):
    warmup = min(recipe.warmup_steps, steps - 1)
    after = max(1, steps - warmup)
    if recipe.schedule == "constant" and not warmup:
        return recipe.learning_rate
    if recipe.schedule == "cosine":
        # Keras's cosine brings its own warm-up.
        start = 0.0 if warmup else recipe.learning_rate
        return keras.optimizers.schedules.CosineDecay(
            start, after, warmup_target=recipe.learning_rate if warmup else None, warmup_steps=warmup
        )
    power = 0.9 if recipe.schedule == "polynomial" else 0.0
    return WarmupPolynomial(recipe.learning_rate, after, warmup, power)


@keras.saving.register_keras_serializable("kseg")
class WarmupPolynomial(keras.optimizers.schedules.LearningRateSchedule):
    """A linear rise, then learning_rate * (1 - t)^power, where t goes from 0 to 1 (Chen et al. 2017, DeepLab).

    Args:
        learning_rate: after the rise.
        decay_steps: batches from the end of the rise until it is 0.
        warmup_steps: batches of the rise.
        power: 1 for a straight line, 0 to stay at `learning_rate`.
    """

    def __init__(self, learning_rate, decay_steps, warmup_steps=0, power=0.9):
        self.learning_rate = learning_rate
        self.decay_steps = decay_steps
        self.warmup_steps = warmup_steps
        self.power = power

    def __call__(self, step):
        step = ops.cast(step, "float32")
        done = ops.clip((step - self.warmup_steps) / self.decay_steps, 0.0, 1.0)
        rise = ops.minimum((step + 1.0) / (self.warmup_steps + 1.0), 1.0)
        return self.learning_rate * rise * (1.0 - done) ** self.power

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "decay_steps": self.decay_steps,
            "warmup_steps": self.warmup_steps,
            "power": self.power,
        }


def carry_over(old, new):
    """Copy the state of one optimizer into another whose variables are more: after layers have been thawed.

    Args:
        old, new: optimizers of one kind, built. What only `new` has keeps its start: no momentum, and the average of
            a weight begins at the weight.
    """
    known = {_own_path(variable): variable for variable in old.variables}
    for variable in new.variables:
        if _own_path(variable) in known:
            variable.assign(copy_of(known[_own_path(variable)]))
    for weight, average in averaged_pairs(new):
        if _own_path(average) not in known:
            average.assign(copy_of(weight))


def _own_path(variable):
    """Without the name of the optimizer, of which Keras makes another one each time."""
    return variable.path.partition("/")[2] or variable.path
