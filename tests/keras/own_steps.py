"""Models with a `train_step` of their own, written as the guide of each backend has it."""

from __future__ import annotations

from typing import Any

import keras

BACKEND = keras.backend.backend()


class OnTensorFlow(keras.Model):
    """The step of the guide for TensorFlow."""

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=y_pred)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return _updated(self.metrics, loss, y, y_pred)


class OnTorch(keras.Model):
    """The step of the guide for PyTorch."""

    def train_step(self, data):
        import torch

        x, y = data
        self.zero_grad()
        y_pred = self(x, training=True)
        loss = self.compute_loss(y=y, y_pred=y_pred)
        loss.backward()
        trainable = list(self.trainable_weights)
        gradients = [variable.value.grad for variable in trainable]
        with torch.no_grad():
            self.optimizer.apply(gradients, trainable)
        return _updated(self.metrics, loss, y, y_pred)


def _updated(metrics: Any, loss: Any, y: Any, y_pred: Any) -> dict[str, Any]:
    for metric in metrics:
        if metric.name == "loss":
            metric.update_state(loss)
        else:
            metric.update_state(y, y_pred)
    return {metric.name: metric.result() for metric in metrics}


class OnJax(keras.Model):
    """The step of the guide for JAX."""

    def compute_loss_and_updates(self, trained, rest, x, y, training=False):
        y_pred, rest = self.stateless_call(trained, rest, x, training=training)
        return self.compute_loss(x, y, y_pred), (y_pred, rest)

    def train_step(self, state, data):
        import jax

        trained, rest, of_optimizer, of_metrics = state
        x, y = data
        gradient = jax.value_and_grad(self.compute_loss_and_updates, has_aux=True)
        (loss, (y_pred, rest)), gradients = gradient(trained, rest, x, y, training=True)
        trained, of_optimizer = self.optimizer.stateless_apply(of_optimizer, gradients, trained)
        changed: list[Any] = []
        logs = {}
        for metric in self.metrics:
            own = of_metrics[len(changed) : len(changed) + len(metric.variables)]
            if metric.name == "loss":
                own = metric.stateless_update_state(own, loss)
            else:
                own = metric.stateless_update_state(own, y, y_pred)
            logs[metric.name] = metric.stateless_result(own)
            changed += own
        return logs, (trained, rest, of_optimizer, changed)


OwnStep = {"tensorflow": OnTensorFlow, "torch": OnTorch, "jax": OnJax}[BACKEND]


class Silent(OwnStep):
    """A step that updates the weights by hand: no optimizer is called."""

    def train_step(self, *given):
        if BACKEND == "jax":
            state, (x, y) = given
            (loss, (_, rest)), gradients = self._gradients(state, x, y)
            trained = [
                value - 0.1 * gradient for value, gradient in zip(state[0], gradients, strict=True)
            ]
            return {"loss": loss}, (trained, rest, *state[2:])
        (x, y) = given[0]
        return self._by_tape(x, y) if BACKEND == "tensorflow" else self._by_autograd(x, y)

    def _gradients(self, state, x, y):
        import jax

        gradient = jax.value_and_grad(self.compute_loss_and_updates, has_aux=True)
        return gradient(state[0], state[1], x, y, training=True)

    def _by_tape(self, x, y):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        for variable, gradient in zip(self.trainable_variables, gradients, strict=True):
            variable.assign_sub(0.1 * gradient)
        return {"loss": loss}

    def _by_autograd(self, x, y):
        import torch

        self.zero_grad()
        loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        loss.backward()
        with torch.no_grad():
            for variable in self.trainable_variables:
                variable.assign_sub(0.1 * variable.value.grad)
        return {"loss": loss}


class Adversaries(keras.Model):
    """Two optimizers, one for each of two layers, called one after the other in a step."""

    def __init__(self, of_generator: Any, of_critic: Any) -> None:
        super().__init__()
        self.generator = keras.layers.Dense(4, activation="tanh", name="generator")
        self.critic = keras.layers.Dense(3, name="critic")
        self.of_generator, self.of_critic = of_generator, of_critic

    def call(self, x):
        return self.critic(self.generator(x))

    def train_step(self, data):
        x, y = data
        critic, generator = self.critic.trainable_weights, self.generator.trainable_weights
        losses = []
        for optimizer, trained in ((self.of_critic, critic), (self.of_generator, generator)):
            loss, gradients = loss_and_gradients(
                lambda: self.compute_loss(y=y, y_pred=self(x, training=True)), trained
            )
            losses.append(loss)
            without_autograd(optimizer.apply, gradients, trained)
        return {"loss": losses[0] + losses[1]}


def loss_and_gradients(loss_of: Any, trained: Any) -> tuple[Any, list[Any]]:
    """(the loss, its gradients with respect to the variables), on TensorFlow and PyTorch."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = loss_of()
        return loss, tape.gradient(loss, trained)
    import torch

    loss = loss_of()
    gradients = torch.autograd.grad(loss, [variable.value for variable in trained])
    return loss.detach(), list(gradients)


def without_autograd(call: Any, *arguments: Any) -> None:
    """Call it so that PyTorch records nothing."""
    if BACKEND == "tensorflow":
        call(*arguments)
        return
    import torch

    with torch.no_grad():
        call(*arguments)
