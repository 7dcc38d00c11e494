"""Exceptions that a user can cause and cure.

MocoError
├── ConfigError       an option, or a combination of options, that cannot work
├── DataError         images, labels or folders that are not what was expected
├── ArchitectureError a backbone that cannot be found or used
└── RunError          an output folder or a checkpoint that cannot be used
    └── BrokenOffError   something was written, and the same command goes on from there
        └── UnfinishedError   the time that was given is over

Every message is one line: what came, what was expected, what to do. The command prints it and exits with code 2 where
nothing was written, with 1 where something was that goes on from there, and with 3 where a time limit ended it.
"""

from moco.printable import printable

REFUSED, BROKEN_OFF, UNFINISHED = 2, 1, 3  # exit codes
INTERRUPTED = 130  # the shell's code for Ctrl-C


class MocoError(Exception):
    """Base of all errors that the user can cure.

    Attributes:
        exit_code: of the command: 2 where nothing was written, 1 where a run or a file was begun.
    """

    exit_code = REFUSED

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(MocoError, ValueError):
    """An option, or a combination of options, that cannot work."""


class DataError(MocoError):
    """Images, labels or folders that are not what was expected."""


class ArchitectureError(MocoError, ValueError):
    """A backbone that cannot be found or used."""


class RunError(MocoError):
    """An output folder or a checkpoint that cannot be used."""


class BrokenOffError(RunError):
    """What was begun could not be finished; the same command goes on from there."""

    exit_code = BROKEN_OFF


class UnfinishedError(BrokenOffError):
    """The time that was given is over; the same command goes on from there."""

    exit_code = UNFINISHED
