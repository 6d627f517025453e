"""Errors that a user sees: one line saying what is wrong, one saying what to do about it."""

import re

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


LINE = 500
"""Most characters of a message."""


def visible(text: str) -> str:
    """A text with a replacement character for each control character but tabs and line ends.

    A terminal obeys control characters, and pages and tables break at them.
    """
    return _CONTROL.sub("\ufffd", text)


def one_line(text: str) -> str:
    """A text as a line of a message: without control characters, its middle left out if long."""
    text = " ".join(visible(text).split())
    return text if len(text) <= LINE else f"{text[: LINE // 2]} … {text[-LINE // 2 :]}"


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


class RunError(EraseError):
    """Something failed while running (exit code 1)."""

    exit_code = 1
