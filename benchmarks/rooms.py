"""How large each room of the code is, and how long the way of a command through them.

    python -m benchmarks.rooms
    python -m benchmarks.rooms --trace concept --model mini-sd --concept three --output DIR …

The first form prints lines and files by room, and the longest chain of imports. The second runs
`erase` with the arguments after `--trace` and follows its calls: how deep frames of this package
nest, how many of its modules and functions the command passes, and between which rooms calls go.
`--root` measures another checkout.
"""

import argparse
import ast
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any


def modules(root: Path) -> dict[str, Path]:
    """Modules of the package, by dotted name."""
    named = {}
    for path in sorted((root / "erase").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        named[".".join(part for part in parts if part != "__init__")] = path
    return named


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of the package that a file imports, at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("erase."):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else str(node.module) for name in names}
        elif isinstance(node, ast.ImportFrom) and node.module == "erase":
            found |= {f"erase.{alias.name}" for alias in node.names}
    return found & set(known)


def room(module: str) -> str:
    """Folder (or file) below `erase` that a module lies in."""
    return [*module.split("."), "erase"][1]


def longest_chain(graph: dict[str, set[str]], start: str) -> list[str]:
    """The longest way along imports from a module; there are no circles (tests/test_layers.py)."""

    @cache
    def longest(module: str) -> tuple[str, ...]:
        return (
            module,
            *max((longest(nearer) for nearer in sorted(graph[module])), key=len, default=()),
        )

    return list(longest(start))


def trace(arguments: list[str], root: Path) -> dict[str, Any]:
    """Run a command and follow its calls within the package."""
    package = str(root / "erase") + "/"
    functions: set[tuple[str, str]] = set()
    crossings: Counter[tuple[str, str]] = Counter()
    deepest = 0

    def of(frame: FrameType | None) -> str | None:
        while frame is not None:
            file = frame.f_code.co_filename
            if file.startswith(package):
                return file[len(package) :].removesuffix(".py")
            frame = frame.f_back
        return None

    def watch(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal deepest
        file = frame.f_code.co_filename
        if event != "call" or not file.startswith(package):
            return
        if frame.f_code.co_name.startswith("<"):
            return
        here = file[len(package) :].removesuffix(".py")
        functions.add((here, frame.f_code.co_qualname))
        caller = of(frame.f_back)
        if caller and caller.split("/")[0] != here.split("/")[0]:
            crossings[caller.split("/")[0], here.split("/")[0]] += 1
        depth, above = 0, frame.f_back
        while above is not None:
            depth += above.f_code.co_filename.startswith(package)
            above = above.f_back
        deepest = max(deepest, depth + 1)

    sys.path.insert(0, str(root))
    from erase.cli.main import main

    sys.setprofile(watch)
    try:
        main(args=arguments, prog_name="erase", standalone_mode=False)
    finally:
        sys.setprofile(None)
    pairs = set(crossings)
    return {
        "modules passed": len({module for module, _ in functions}),
        "functions passed": len(functions),
        "deepest nesting": deepest,
        "pairs of rooms with calls between them": len(pairs),
        "pairs with calls both ways": len({frozenset(p) for p in pairs if p[::-1] in pairs}),
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).parent.parent)
    parser.add_argument("--start", default="erase.cli.concept", help="where the chain begins")
    parser.add_argument("--trace", nargs=argparse.REMAINDER, help="arguments of erase")
    given = parser.parse_args()
    root = given.root.resolve()
    if given.trace:
        for name, value in trace(given.trace, root).items():
            print(f"{name}: {value}")
        return
    known = modules(root)
    lines = {name: path.read_text(encoding="utf-8").count("\n") for name, path in known.items()}
    for name in sorted({room(module) for module in known}):
        inside = [module for module in known if room(module) == name]
        print(f"{name:12} {sum(lines[module] for module in inside):6} lines {len(inside):4} files")
    print(f"{'all':12} {sum(lines.values()):6} lines {len(lines):4} files")
    graph = {name: imports(path, known) for name, path in known.items()}
    chain = longest_chain(graph, given.start)
    print(f"longest chain of imports: {len(chain)} modules, {' > '.join(chain)}")
    reached, waiting = set(), [given.start]
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += graph[module]
    print(f"modules within reach of {given.start}: {len(reached)}")
    rooms = [room(module) for module in chain]
    steps = [name for i, name in enumerate(rooms) if i == 0 or rooms[i - 1] != name]
    print(f"rooms along it: {len(steps)}, of them entered again: {len(steps) - len(set(steps))}")


if __name__ == "__main__":
    main()
