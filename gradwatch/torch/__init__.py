"""The PyTorch adapter: gradients, weights, updates and signals of a model that trains."""

from gradwatch.torch.watching import Watch, watch

__all__ = ["Watch", "watch"]
