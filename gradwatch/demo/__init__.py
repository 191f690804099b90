"""Demo: handwritten digits, a network that does not learn beside the same one that does."""
