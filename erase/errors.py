"""Errors that a user sees: one line saying what is wrong, one saying what to do about it."""


class EraseError(Exception):
    """Base of every expected error.

    Args:
        message: what is wrong, in one line.
        remedy: what to do about it, in one line; empty when there is nothing to suggest.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class InputError(EraseError):
    """The user's input cannot be used (exit code 2)."""

    exit_code = 2


class MissingError(InputError):
    """Something public is not on this machine (exit code 2); the remedy says how to get it."""


class RunError(EraseError):
    """Something failed while running (exit code 1)."""

    exit_code = 1
