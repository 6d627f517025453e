"""The examples of docs/extending.md: read from the page, and installed as another package."""

import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
PACKAGE = "my-package"


def blocks(language: str) -> list[tuple[str, str]]:
    """The page's fenced blocks of a language: the file name on the line above, and the text."""
    fence = rf"(?:^`(\S+)`\n\n)?^```{language}\n(.*?)^```$"
    return re.findall(fence, PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


EXAMPLES = dict(blocks("python"))
"""The text of each example by the file that it stands in."""
PLUGINS = {name: text for name, text in EXAMPLES.items() if not name.startswith("erase/tasks/")}
IN_ERASE = {name: text for name, text in PLUGINS.items() if name.startswith("erase/")}
"""Those that may also be files of `erase` itself."""
DOCUMENTED: dict[str, dict[str, str]] = {
    group.removeprefix("erase."): points
    for _, text in blocks("toml")
    for group, points in tomllib.loads(text)["project"]["entry-points"].items()
}
"""The entry points that the page names."""
# Prefixed, so that the tests also pass where the examples have been added to `erase` as they are.
ENTRY_POINTS = {
    kind: points if kind == "judges" else {f"my-{name}": value for name, value in points.items()}
    for kind, points in DOCUMENTED.items()
}
FILES = {
    Path(name).stem: text
    if "PluginJudge" in text
    else re.sub(r'^    name = "', '    name = "my-', text, flags=re.MULTILINE)
    for name, text in PLUGINS.items()
}


def install(
    site: Path,
    package: str = PACKAGE,
    files: dict[str, str] = FILES,
    entry_points: dict[str, dict[str, str]] = ENTRY_POINTS,
) -> Path:
    """What pip would put into a folder of `sys.path`; returns the folder."""
    stem = package.replace("-", "_")
    modules, facts = site / stem, site / f"{stem}-1.0.dist-info"
    modules.mkdir(parents=True)
    facts.mkdir()
    (modules / "__init__.py").touch()
    for name, text in files.items():
        (modules / f"{name}.py").write_text(text)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = []
    for kind, points in entry_points.items():
        lines += [f"[erase.{kind}]", *(f"{name} = {value}" for name, value in points.items())]
    (facts / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return site


def load_family(name: str) -> Any:
    """The family of an example, as if its file were there."""
    module = ModuleType(name.removesuffix(".py").replace("/", "."))
    sys.modules[module.__name__] = module
    exec(compile(EXAMPLES[name], name, "exec"), module.__dict__)
    return module.FAMILY
