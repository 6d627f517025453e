"""The lower bounds of pyproject.toml are the versions that `make test-lowest` installs."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent


def lowest() -> dict[str, str]:
    """The version of each dependency in constraints-lowest.txt."""
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    rows = (line.split("==") for line in lines if line and not line.startswith("#"))
    return dict(rows)


def test_each_bound_is_the_version_that_is_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = {}
    for line in project["dependencies"]:
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        assert specifier.operator == ">=", line
        bounds[requirement.name] = specifier.version
    tested = lowest()
    assert set(tested) == set(bounds)
    for name, bound in bounds.items():
        assert f"{tested[name]}.".startswith(f"{bound}."), name
