"""What is imported before the tests of the tab."""

import warnings

with warnings.catch_warnings():
    # A parser that comes with TensorBoard warns of itself when it is first imported.
    warnings.simplefilter("ignore", DeprecationWarning)
    import tensorboard.plugin_util  # noqa: F401 -- imported for its effect
