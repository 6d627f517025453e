"""Errors that a user sees: one line saying what is wrong, one saying what to do about it."""

import difflib
import re
from collections.abc import Iterable


def likely(name: str, known: Iterable[str]) -> str:
    """`Did you mean …? ` with the known name most like a misspelt one; empty when none is like it.

    Case, spaces, dots, dashes and underscores do not count.
    """
    plain = {_plain(item): item for item in known}
    close = difflib.get_close_matches(_plain(name), plain, n=1)
    return f"Did you mean {plain[close[0]]!r}? " if close else ""


def _plain(name: str) -> str:
    return re.sub(r"[\s._-]", "", name.lower())


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


class SettingError(InputError):
    """A setting has a value that it cannot have.

    Args:
        name: the setting, as configuration files and Python spell it.
        rest: what is wrong with it, after its name.
        remedy: what to do about it.
    """

    def __init__(self, name: str, rest: str, remedy: str) -> None:
        super().__init__(f"{name} {rest}", remedy)
        self.name = name
        self.rest = rest

    def of_option(self, option: str) -> InputError:
        """The same error for the option that the value was given to, such as `--limit`."""
        return InputError(f"{option} {self.rest}", self.remedy)


class RunError(EraseError):
    """Something failed while running (exit code 1)."""

    exit_code = 1
