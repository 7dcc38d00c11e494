"""Exceptions that a user can cause and cure.

MocoError
├── ConfigError       an option, or a combination of options, that cannot work
├── DataError         images, labels or folders that are not what was expected
├── ArchitectureError a backbone that cannot be found or used
└── RunError          an output folder or a checkpoint that cannot be used

Every message is one line: what came, what was expected, what to do. The command prints it and exits with code 2.
"""

INTERRUPTED = 130  # the shell's code for Ctrl-C


class MocoError(Exception):
    """Base of all errors that the user can cure."""


class ConfigError(MocoError, ValueError):
    """An option, or a combination of options, that cannot work."""


class DataError(MocoError):
    """Images, labels or folders that are not what was expected."""


class ArchitectureError(MocoError, ValueError):
    """A backbone that cannot be found or used."""


class RunError(MocoError):
    """An output folder or a checkpoint that cannot be used."""
