"""What every test process needs before a framework is imported."""

import os

# Keras reads its backend, and torch its number of threads, once: when they are first imported.
os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
