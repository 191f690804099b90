"""The Keras 3 adapter: `GradWatch`, a callback that watches a model while `fit` trains it."""

from gradwatch.keras.versions import check_versions

check_versions()

from gradwatch.keras.callback import GradWatch  # noqa: E402 -- it needs a Keras that was checked

__all__ = ["GradWatch"]
