"""Counts provoked faults: `@pytest.mark.fault(KIND)` on a test; `--faults FILE` writes the table.

`survived` are the tests that passed, `tried` all that ran; docs/reliability.md holds the table.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

TRIED: Counter[str] = Counter()
SURVIVED: Counter[str] = Counter()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", type=Path, help="write the table of provoked faults to FILE")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if mark := item.get_closest_marker("fault"):
            item.user_properties.append(("fault", mark.args[0]))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    kind = dict(report.user_properties).get("fault")
    if kind and report.when == "call":
        TRIED[str(kind)] += 1
        SURVIVED[str(kind)] += report.passed


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(config: pytest.Config) -> Iterator[None]:
    yield
    if file := config.getoption("--faults"):
        rows = [f"| {kind} | {SURVIVED[kind]} / {TRIED[kind]} |" for kind in sorted(TRIED)]
        file.write_text("\n".join(["| kind | survived / tried |", "|---|---:|", *rows]) + "\n")
