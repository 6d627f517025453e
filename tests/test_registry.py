"""Plug-ins are found by file name; describing them needs no torch."""

import subprocess
import sys

import pytest

from erase import registry
from erase.errors import InputError


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_plugin_loads_and_has_a_summary(kind: str) -> None:
    assert registry.names(kind)
    for name in registry.names(kind):
        assert registry.summary(kind, name).endswith("."), name
        assert registry.load(kind, name).__name__.startswith(f"erase.{kind}.")


def test_unknown_name_suggests() -> None:
    with pytest.raises(InputError, match="no method named 'lurr'") as caught:
        registry.load("methods", "lurr")
    assert "'lur'" in caught.value.remedy


def test_listing_imports_no_torch() -> None:
    code = (
        "import sys; from erase import registry;"
        "[registry.summary(k, n) for k in registry.KINDS for n in registry.names(k)];"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
