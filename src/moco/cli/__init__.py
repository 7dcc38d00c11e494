"""The command line: parse, call, print. No logic."""

from moco.cli.main import main

__all__ = ["main"]
