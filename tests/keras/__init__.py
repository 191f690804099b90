"""Tests of the Keras adapter; the backend is the one that `KERAS_BACKEND` names."""
