"""Twelve of the labelled runs of `tests.calibration`, rebuilt in Keras: six sick, six healthy.

`KERAS_BACKEND=jax python -m tests.keras.calibration_cases --seeds 0 1 2` prints what the callback
at its defaults says of each. Scikit-learn's digits, cross-entropy on logits, SGD with momentum 0.9
at a learning rate of 0.05, batches of 64, 300 steps, hidden width 64, unless a row says otherwise.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
from keras import layers
from keras.initializers import Constant, Orthogonal, RandomNormal, RandomUniform, VarianceScaling
from rich.console import Console
from rich.table import Table

import gradwatch.keras
from gradwatch.finding import Finding
from tests.keras.calibration_tasks import BATCH, CLASSES, Task, digits, drawn, recall, sequences

STEPS = 300

Initialiser = Callable[[], Any]
"""Makes a new initialiser: one that is used twice gives the same weights twice."""


def scaled(variance: float, fans: str = "fan_in") -> Initialiser:
    """Normal weights of a variance over their fans."""
    return partial(VarianceScaling, variance, fans, "untruncated_normal")


HE, GLOROT, LECUN = scaled(2.0), scaled(1.0, "fan_avg"), scaled(1.0)


@dataclass(frozen=True)
class Case:
    """A labelled run.

    Args:
        name: Unique; healthy ones start with `h_`.
        net: Makes the model; random numbers have been seeded.
        code: Of the rule that has to fire; None for a healthy case.
        cause: That the finding has to name.
        task: The data.
        lr: Learning rate.
    """

    name: str
    net: Callable[[], Any]
    code: str | None = None
    cause: str | None = None
    task: Task = digits
    lr: float = 0.05


@dataclass(frozen=True)
class Result:
    """What the callback said of a run.

    Args:
        case: The label.
        seed: Of the run.
        alarms: Findings that were ever above a notice, as they were when they last were.
        watch: The callback.
        seconds: That the training took.
    """

    case: Case
    seed: int
    alarms: tuple[Finding, ...]
    watch: gradwatch.keras.GradWatch
    seconds: float

    @property
    def verdict(self) -> str:
        """The result in a few words."""
        if self.case.code is None:
            return "false alarm" if self.alarms else "silent"
        causes = [alarm.cause for alarm in self.alarms if alarm.code == self.case.code]
        if not causes:
            return "other code" if self.alarms else "missed"
        return "caught" if self.case.cause in causes else "caught, wrong cause"


class Alarms(keras.callbacks.Callback):
    """What was ever above a notice, one finding for each code and cause."""

    def __init__(self, watch: gradwatch.keras.GradWatch) -> None:
        super().__init__()
        self._watch = watch
        self._last: dict[tuple[str, str], Finding] = {}

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Keep what has been found up to the step before."""
        self.noted()

    def noted(self) -> tuple[Finding, ...]:
        """In the order in which they first rose above a notice."""
        for finding in self._watch.findings:
            if finding.severity != "notice":
                self._last[finding.code, finding.cause] = finding
        return tuple(self._last.values())


def mlp(
    *, hidden: int, activation: str = "relu", initialiser: Initialiser = HE, bias: float = 0.0
) -> Any:
    """An MLP on the digits."""
    model = keras.Sequential([keras.Input((64,))])
    for index in range(hidden):
        model.add(
            layers.Dense(
                64,
                activation=activation,
                kernel_initializer=initialiser(),
                bias_initializer=Constant(bias),
                name=f"hidden_{index}",
            )
        )
    model.add(layers.Dense(CLASSES, kernel_initializer=LECUN(), name="head"))
    return model


def cnn(*, depth: int, width: int = 16) -> Any:
    """3x3 convolutions with a bias before BatchNorm, two max-pools, and a linear head."""
    model = keras.Sequential([keras.Input((64,)), layers.Reshape((8, 8, 1))])
    for index in range(depth):
        model.add(layers.Conv2D(width, 3, padding="same", kernel_initializer=HE()))
        model.add(layers.BatchNormalization(momentum=0.9, epsilon=1e-5))
        model.add(layers.ReLU())
        if index in {depth // 3, 2 * depth // 3}:
            model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    model.add(layers.Dense(CLASSES, kernel_initializer=LECUN()))
    return model


class Position(layers.Layer):
    """Adds a learned vector to each token."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Make it of the shape of one example."""
        self.vectors = self.add_weight(shape=shape[1:], initializer=RandomNormal(stddev=0.02))

    def call(self, inputs: Any) -> Any:
        """Tokens of the same shape."""
        return inputs + self.vectors


def transformer(*, blocks: int, width: int = 32, heads: int = 4) -> Any:
    """Pre-norm blocks over the eight rows of an image, each row a token."""
    inputs = keras.Input((64,))
    x = Position()(layers.Dense(width)(layers.Reshape((8, 8))(inputs)))
    for _ in range(blocks):
        normed = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(heads, width // heads)(normed, normed)
        inner = layers.Dense(2 * width, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(width)(inner)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def recurrent(layer: Any, *, length: int, features: int) -> Any:
    """A recurrent layer that is read out at the last step."""
    head = layers.Dense(CLASSES, kernel_initializer=LECUN(), name="head")
    return keras.Sequential([keras.Input((length, features)), layer, head])


def fading_rnn() -> Any:
    """A tanh RNN with recurrent weights of 0.4 x orthogonal."""
    rnn = layers.SimpleRNN(
        48, kernel_initializer=LECUN(), recurrent_initializer=Orthogonal(0.4), name="recurrent"
    )
    return recurrent(rnn, length=60, features=10)


def sequence_lstm() -> Any:
    """An LSTM with a forget bias of 1 over 40 steps."""
    bound = 48**-0.5
    lstm = layers.LSTM(
        48,
        kernel_initializer=RandomUniform(-bound, bound),
        recurrent_initializer=RandomUniform(-bound, bound),
        name="recurrent",
    )
    return recurrent(lstm, length=40, features=1)


SICK = (
    Case(
        "mlp_sigmoid8",
        partial(mlp, hidden=8, activation="sigmoid", initialiser=GLOROT),
        "GW101",
        "activation",
    ),
    Case(
        "mlp_relu_std01",
        partial(mlp, hidden=10, initialiser=partial(RandomNormal, stddev=0.01)),
        "GW101",
        "weights",
    ),
    Case("dead_relu_bias", partial(mlp, hidden=6, bias=-5.0), "GW201", "weights"),
    Case(
        "mlp_tanh_large",
        partial(mlp, hidden=10, activation="tanh", initialiser=scaled(36.0)),
        "GW202",
        "weights",
    ),
    Case("rnn_vanish", fading_rnn, "GW102", "time", task=recall),
    Case("lr_too_small", partial(mlp, hidden=4), "GW501", "learning rate", lr=1e-6),
)

HEALTHY = (
    Case("h_mlp_relu_he", partial(mlp, hidden=8)),
    Case("h_cnn_bn8_convbias", partial(cnn, depth=8), lr=0.02),
    Case("h_preln4", partial(transformer, blocks=4)),
    Case("h_lstm_long", sequence_lstm, task=sequences),
)

FURTHER = (
    Case("h_cnn_bn20_convbias", partial(cnn, depth=20), lr=0.02),
    Case("h_preln10", partial(transformer, blocks=10)),
)
"""Too deep for the test suite; the command runs them too."""

CASES = SICK + HEALTHY


def train(case: Case, seed: int, *, steps: int = STEPS, epochs: int = 1) -> Result:
    """Train a case with the callback at its defaults.

    Args:
        case: The case.
        seed: Of data and weights.
        steps: Optimizer steps of an epoch.
        epochs: How often they are made.
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model = case.net()
    model.compile(
        optimizer=keras.optimizers.SGD(case.lr, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    inputs, targets = drawn(case.task, seed, steps)
    watch = gradwatch.keras.GradWatch(verbose=0)
    alarms = Alarms(watch)
    began = time.perf_counter()
    model.fit(
        inputs,
        targets,
        batch_size=BATCH,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[watch, alarms],
    )
    return Result(case, seed, alarms.noted(), watch, time.perf_counter() - began)


def main() -> None:
    """Print the verdict on every case and seed, and the totals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cases", nargs="+", metavar="CASE")
    options = parser.parse_args()
    cases = [case for case in CASES + FURTHER if not options.cases or case.name in options.cases]
    console = Console(width=120)
    results = []
    for case in cases:
        for seed in options.seeds:
            results.append(train(case, seed))
            console.print(f"{case.name}, seed {seed}: {results[-1].verdict}")
    console.print(result_table(results))
    console.print(f"{keras.backend.backend()}: {totals(results)}")


def result_table(results: Iterable[Result]) -> Table:
    """A row for each result."""
    table = Table("case", "seed", "expected", "found", "verdict", "limits", "s")
    for result in results:
        case = result.case
        table.add_row(
            case.name,
            str(result.seed),
            f"{case.code} · {case.cause}" if case.code else "nothing",
            "\n".join(described(result)),
            result.verdict,
            "\n".join(result.watch.history.limits),
            f"{result.seconds:.0f}",
        )
    return table


def described(result: Result) -> Iterator[str]:
    """Each alarm as code, cause, layers and the steps at which it was open."""
    for alarm in result.alarms:
        names = alarm.layers if len(alarm.layers) < 3 else (alarm.layers[0], "…", alarm.layers[-1])
        end = "" if alarm.resolved_step is None else alarm.resolved_step
        yield f"{alarm.code} · {alarm.cause} · {', '.join(names)} @{alarm.step}-{end}"


def totals(results: Iterable[Result]) -> str:
    """How many were caught, missed and falsely alarmed, and how many causes were right."""
    verdicts = [(result.case.code is not None, result.verdict) for result in results]
    caught = sum(sick and verdict.startswith("caught") for sick, verdict in verdicts)
    right = sum(verdict == "caught" for _, verdict in verdicts)
    sick = sum(sick for sick, _ in verdicts)
    alarmed = sum(verdict == "false alarm" for _, verdict in verdicts)
    return (
        f"caught {caught} of {sick}, right cause {right} of {caught}, missed {sick - caught}; "
        f"false alarms {alarmed} of {len(verdicts) - sick}"
    )


if __name__ == "__main__":
    main()
