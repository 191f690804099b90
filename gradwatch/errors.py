"""Errors that gradwatch raises at set-up; during training it raises none."""

from __future__ import annotations


class GradwatchError(Exception):
    """Base class of every error that gradwatch raises."""


class ArgumentError(GradwatchError, ValueError):
    """An argument cannot be used; the message names it, its value and the way out."""


class MissingExtraError(GradwatchError, ImportError):
    """An optional dependency is missing; the message names the extra to install."""
