"""The version, its only place: hatchling reads it from here."""

__version__ = "0.1.0"
