"""What a case says when the promise was not kept."""

from __future__ import annotations


class Failure(Exception):  # noqa: N818 - what it says is the result of a case, not an error of the suite
    """One line for the figures; `said` is what the command printed last."""

    def __init__(self, reason: str, said: str = "") -> None:
        super().__init__(reason)
        self.said = said

    def __reduce__(self) -> tuple[type[Failure], tuple[str, str]]:
        return Failure, (str(self), self.said)
