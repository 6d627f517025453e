"""Counts provoked faults: `@pytest.mark.fault(KIND)` on a test; `--faults=FILE` writes the table.

`survived` are the faults of tests that passed, `tried` those of all that ran; a test provokes one,
or as many as it says (`times=N`). docs/reliability.md holds the table.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TRIED: Counter[str] = Counter()
SURVIVED: Counter[str] = Counter()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", type=Path, help="write the table of provoked faults to FILE")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if mark := item.get_closest_marker("fault"):
            item.user_properties.append(("fault", (mark.args[0], mark.kwargs.get("times", 1))))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    fault: Any = dict(report.user_properties).get("fault")
    if fault and report.when == "call":
        kind, times = fault
        TRIED[kind] += times
        SURVIVED[kind] += times * report.passed


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(config: pytest.Config) -> Iterator[None]:
    yield
    file = config.getoption("--faults")
    if file and not hasattr(config, "workerinput"):  # the main process has all reports
        rows = [f"| {kind} | {SURVIVED[kind]} / {TRIED[kind]} |" for kind in sorted(TRIED)]
        file.write_text("\n".join(["| kind | survived / tried |", "|---|---:|", *rows]) + "\n")
