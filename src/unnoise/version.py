"""The one place where the version is written; pyproject.toml reads it here."""

__version__ = "0.1.0"
