"""Fixes: one file a family; each function makes one `Fix` that names the user's own layers."""
