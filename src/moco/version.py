"""The one home of the version number; CHANGELOG.md is checked against it."""

__version__ = "0.1.0"
