"""The GradWatch tab of TensorBoard: a run as heatmap, profile and findings; imports nothing."""

from __future__ import annotations
