"""The gradient of a snapshot is the one that the optimizer used, computed here by autograd."""

from __future__ import annotations

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from gradwatch.keras.optimizers import (  # noqa: E402 -- needs Keras
    accumulation_of,
    decay_shares,
    leaves,
    loss_scale_of,
    optimizers_of,
)
from gradwatch.snapshot import State  # noqa: E402 -- after the check
from tests.keras.own_steps import Adversaries, loss_and_gradients  # noqa: E402 -- needs Keras
from tests.keras.training import (  # noqa: E402 -- needs Keras
    BACKEND,
    BATCH,
    STEPS,
    array,
    compiled,
    cross_entropy,
    fit,
    mlp,
    tensors,
    watch,
)

layers, optimizers = keras.layers, keras.optimizers

# Keras itself, and what it imports, calls NumPy in ways that NumPy 2.4 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

not_on_jax = pytest.mark.skipif(BACKEND == "jax", reason="a step on JAX is pure")
CLOSE = {"rtol": 2e-5}


def gradients(model, x, y):
    """Variable's id → its gradient on a batch, on the host."""
    trained = model.trainable_variables

    def loss_of():
        return cross_entropy()(keras.ops.convert_to_tensor(y), model(x, training=True))

    if BACKEND == "jax":
        import jax

        def loss_at(values):
            pairs = list(zip(trained, values, strict=True))
            with keras.StatelessScope(state_mapping=pairs):
                return loss_of()

        found = jax.grad(loss_at)([variable.value for variable in trained])
    else:
        found = loss_and_gradients(loss_of, trained)[1]
    return {
        id(variable): array(gradient).astype(np.float64)
        for variable, gradient in zip(trained, found, strict=True)
    }


def norm(arrays):
    return float(np.sqrt(sum(np.square(one).sum() for one in arrays)))


def by_layer(model, found):
    """Norm of each layer's gradients, in the order of the layers."""
    return [
        norm([found[id(variable)] for variable in layer.trainable_variables])
        for layer in model.layers
        if layer.trainable_variables
    ]


def batch(number=0):
    x, y = tensors(5)
    part = slice(number * BATCH, (number + 1) * BATCH)
    return x[part], y[part]


def each_clipped(found, to):
    return {key: one * min(1.0, to / norm([one])) for key, one in found.items()}


def all_clipped(found, to):
    share = min(1.0, to / norm(found.values()))
    return {key: one * share for key, one in found.items()}


def value_clipped(found, to):
    return {key: np.clip(one, -to, to) for key, one in found.items()}


def unchanged(found):
    return found


def scaled(**of_inner):
    return optimizers.LossScaleOptimizer(optimizers.SGD(0.1, **of_inner), initial_scale=4096.0)


def two_in_one(**of_each):
    first, last = optimizers.SGD(0.1, **of_each), optimizers.SGD(0.1, **of_each)
    return optimizers.MultiOptimizer(optimizers.OptimizerMap(first, {".*last/.*": last}))


@pytest.mark.parametrize(
    ("make", "used"),
    [
        pytest.param(lambda: optimizers.Adam(0.01), unchanged, id="plain"),
        pytest.param(
            lambda: optimizers.SGD(0.1, clipnorm=0.05),
            lambda g: each_clipped(g, 0.05),
            id="clipnorm",
        ),
        pytest.param(
            lambda: optimizers.SGD(0.1, global_clipnorm=0.05),
            lambda g: all_clipped(g, 0.05),
            id="global_clipnorm",
        ),
        pytest.param(
            lambda: optimizers.SGD(0.1, clipvalue=0.01),
            lambda g: value_clipped(g, 0.01),
            id="clipvalue",
        ),
        pytest.param(
            lambda: optimizers.SGD(0.1, loss_scale_factor=64.0), unchanged, id="loss_scale_factor"
        ),
        pytest.param(scaled, unchanged, id="scaled"),
        pytest.param(
            lambda: scaled(global_clipnorm=0.05),
            lambda g: all_clipped(g, 0.05),
            id="scaled-clipped",
        ),
        pytest.param(two_in_one, unchanged, id="multi"),
    ],
)
def test_the_gradient_is_the_one_that_was_used(make, used):
    model = compiled(mlp(), make())
    expected = by_layer(model, used(gradients(model, *batch())))
    callback = watch()
    x, y = batch()
    fit(model, callback, x=x, y=y)
    assert [layer.name for layer in callback.history.layers] == ["first", "last"]
    np.testing.assert_allclose(callback.history[0].grad_norm, expected, **CLOSE)
    assert callback.history.limits == ()


def test_optimizers_in_one_clip_by_the_norm_of_what_each_trains():
    model = compiled(mlp(), two_in_one(global_clipnorm=0.05))
    callback = watch()
    x, y = batch()
    fit(model, callback, x=x, y=y)
    np.testing.assert_allclose(callback.history[0].grad_norm, [0.05, 0.05], rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "used"),
    [({}, unchanged), ({"global_clipnorm": 0.05}, lambda g: all_clipped(g, 0.05))],
    ids=["plain", "clipped"],
)
def test_accumulated_gradients_are_one_snapshot_of_their_mean(options, used):
    model = compiled(mlp(), optimizers.SGD(0.1, gradient_accumulation_steps=STEPS, **options))
    micro = [gradients(model, *batch(number)) for number in range(STEPS)]
    mean = {key: sum(one[key] for one in micro) / STEPS for key in micro[0]}
    callback = watch()
    fit(model, callback, epochs=2)
    assert [snapshot.step for snapshot in callback.history] == [0, 1]
    np.testing.assert_allclose(callback.history[0].grad_norm, by_layer(model, used(mean)), **CLOSE)
    assert (callback.history[0].update_ratio > 0).all()


def test_the_last_of_several_steps_in_one_execution_is_the_one_that_is_seen():
    if BACKEND == "torch":
        pytest.skip("Keras refuses it on PyTorch")
    seen = []
    for steps in (1, STEPS):
        keras.utils.set_random_seed(0)
        callback = watch()
        fit(compiled(mlp(), steps_per_execution=steps), callback)
        seen.append(callback.history)
    assert [snapshot.step for snapshot in seen[1]] == [STEPS - 1]
    np.testing.assert_allclose(seen[1][-1].grad_norm, seen[0][-1].grad_norm, **CLOSE)


@not_on_jax
def test_two_optimizers_are_seen_in_one_snapshot():
    model = Adversaries(optimizers.SGD(0.1, clipnorm=0.05), optimizers.Adam(0.01))
    x, y = batch()
    model(x)
    model.compile(loss=cross_entropy(), jit_compile=False)
    expected = by_layer(model, gradients(model, x, y))
    callback = watch()
    fit(model, callback, x=x, y=y)
    first = callback.history[0]
    assert [layer.name for layer in first.layers] == ["generator", "critic"]
    # The critic's step is the first; the generator's gradient passes through what it has become.
    np.testing.assert_allclose(first.grad_norm[1], expected[1], **CLOSE)
    assert 0 < first.grad_norm[0] <= np.sqrt(2) * 0.05 * 1.001
    assert (first.update_ratio > 0).all()
    assert len(callback.history) == 1


class Unused(layers.Layer):
    """A layer whose weight nothing depends on."""

    def build(self, shape):
        self.unused = self.add_weight(shape=(3, 3), name="unused")
        self.built = True

    def call(self, x):
        return x


# A gradient that is not there is what this test is about.
@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables:UserWarning")
@pytest.mark.filterwarnings(r"ignore:[\s\S]*gradients? provided for:UserWarning")
def test_a_weight_that_is_not_used_has_no_gradient_or_one_of_zeros():
    model = keras.Sequential(
        [keras.Input((5,)), layers.Dense(4), Unused(name="unused"), layers.Dense(3)]
    )
    callback = watch()
    fit(compiled(model), callback)
    first = callback.history[0]
    unused = [layer.name for layer in first.layers].index("unused")
    expected = State.ZERO_GRADIENT if BACKEND == "jax" else State.NO_GRADIENT
    assert first.states[unused] == expected
    assert first.grad_norm[unused] == 0 if BACKEND == "jax" else np.isnan(first.grad_norm[unused])
    assert (np.delete(first.grad_norm, unused) > 0).all()


# --- what is read of an optimizer


class Holder(keras.Model):
    """A model that keeps an optimizer as its attribute, and the compiled one as another."""

    def __init__(self):
        super().__init__()
        self.other = optimizers.Adam()

    def call(self, x):
        return x


def test_an_optimizer_that_is_compiled_and_kept_is_found_once():
    model = Holder()
    model.compile(optimizers.SGD())
    model.again = model.optimizer
    assert [type(one).__name__ for one in optimizers_of(model)] == ["SGD", "Adam"]


@pytest.mark.parametrize(
    "kept",
    [
        lambda one, two: [one, two],
        lambda one, two: (one, two),
        lambda one, two: {"one": one, "two": two},
        lambda one, two: {"both": [one, {"deeper": (two, one)}]},
    ],
    ids=["list", "tuple", "dict", "nested"],
)
def test_optimizers_that_are_kept_in_containers_are_found_once_each(kept):
    model = Holder()
    model.kept = kept(optimizers.SGD(), optimizers.RMSprop())
    model.itself = {"itself": model.kept}
    assert sorted(type(one).__name__ for one in optimizers_of(model)) == ["Adam", "RMSprop", "SGD"]


def test_a_container_that_holds_itself_is_gone_through_once():
    model = Holder()
    endless = [optimizers.SGD()]
    endless.append(endless)
    vars(model)["endless"] = endless
    assert [type(one).__name__ for one in optimizers_of(model)] == ["Adam", "SGD"]


class Kept(Adversaries):
    """Its two optimizers are kept in a dictionary and a list."""

    def __init__(self, of_generator, of_critic):
        super().__init__(None, None)
        self.kept = {"generator": of_generator, "rest": [of_critic]}

    def train_step(self, data):
        vars(self)["of_generator"] = self.kept["generator"]
        vars(self)["of_critic"] = self.kept["rest"][0]
        try:
            return super().train_step(data)
        finally:
            vars(self)["of_generator"] = vars(self)["of_critic"] = None


@not_on_jax
def test_optimizers_in_containers_are_tapped():
    model = Kept(optimizers.SGD(0.1), optimizers.Adam(0.01))
    x, y = batch()
    model(x)
    model.compile(loss=cross_entropy(), jit_compile=False)
    callback = watch()
    fit(model, callback, x=x, y=y)
    assert (callback.history[0].grad_norm > 0).all()
    assert (callback.history[0].update_ratio > 0).all()
    assert not any("apply" in vars(optimizer) for optimizer in optimizers_of(model))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (optimizers.SGD, ["SGD"]),
        (lambda: optimizers.LossScaleOptimizer(optimizers.Adam()), ["Adam"]),
        (two_in_one, ["SGD", "SGD"]),
    ],
    ids=["plain", "scaled", "multi"],
)
def test_the_optimizers_inside_are_those_that_update(make, expected):
    assert sorted(type(one).__name__ for one in leaves(make())) == expected


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (optimizers.SGD, 1),
        (lambda: optimizers.SGD(gradient_accumulation_steps=3), 3),
        (lambda: scaled(gradient_accumulation_steps=3), 3),
        (lambda: two_in_one(gradient_accumulation_steps=2), 2),
    ],
    ids=["plain", "accumulating", "scaled", "multi"],
)
def test_calls_to_one_update_are_counted(make, expected):
    assert accumulation_of(make()) == expected


def test_a_loss_scale_that_was_read_stays_when_the_optimizer_halves_it():
    optimizer = scaled()
    model = compiled(mlp(), optimizer)
    optimizer.build(model.trainable_variables)
    before = loss_scale_of(optimizer)
    optimizer.dynamic_scale.assign(2048.0)
    assert float(array(before)) == 4096.0
    assert float(array(loss_scale_of(optimizer))) == 2048.0


def test_decay_is_of_the_variables_that_are_not_excluded():
    optimizer = optimizers.AdamW(0.5, weight_decay=0.1)
    model = compiled(mlp(), optimizer)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.build(model.trainable_variables)
    shares = decay_shares(optimizer, model.trainable_variables)
    np.testing.assert_allclose([float(array(share)) for share in shares], [0.05, 0, 0.05, 0])


def test_half_precision_weights_hold_no_scale_and_their_gradient_is_still_unscaled():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float16")
    try:
        model = mlp()
    finally:
        keras.config.set_dtype_policy(before)
    optimizer = optimizers.LossScaleOptimizer(optimizers.SGD(1e-3), initial_scale=2.0**17)
    callback = watch()
    x, y = batch()
    fit(compiled(model, optimizer), callback, x=x * 1e-3, y=y)
    assert 0 < callback.history[0].grad_norm[0] < 1
