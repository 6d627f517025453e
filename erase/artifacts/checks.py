"""Checks of the installation: the machine, the libraries, the package, and what lies in caches."""

import importlib.metadata
import os
import platform
import shutil
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from erase.artifacts import hub, packaged
from erase.artifacts.cache import cache_root
from erase.artifacts.inventory import Item, size_text
from erase.errors import EraseError

OK, MISSING, BROKEN, NOTE = "ok", "missing", "broken", "note"


@dataclass(frozen=True)
class Finding:
    """What one check says."""

    group: str
    """`system`, `libraries`, `package` or `data`."""
    name: str
    state: str
    """`ok`, `missing`, `broken`, or `note` for what is neither good nor bad."""
    detail: str = ""
    remedy: str = ""
    needed: bool = True
    """Whether this fails the command when it is not ok."""

    def fails(self) -> bool:
        """Whether something has to be mended."""
        return self.needed and self.state in (MISSING, BROKEN)


def check_system() -> Iterator[Finding]:
    """Python, processor, memory, devices, the cache and the hub."""
    import psutil

    yield Finding("system", "Python", OK, platform.python_version())
    memory = psutil.virtual_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("system", "processor", OK, f"{platform.machine()}, {cores} cores")
    used = f"{memory.total / 1e9:.0f} GB, {memory.available / 1e9:.0f} GB free"
    yield Finding("system", "memory", OK, used)
    yield _check_devices()
    yield _check_cache(cache_root())
    offline = "offline (HF_HUB_OFFLINE)" if hub.is_offline() else "may be asked; not tried"
    yield Finding("system", "hub", NOTE, f"{offline}, cache {hub.hub_cache()}")


def _check_cache(root: Path) -> Finding:
    here = next(path for path in (root, *root.parents) if path.exists())
    if not os.access(here, os.W_OK):
        remedy = "Set ERASE_CACHE to another folder."
        return Finding("system", "cache", BROKEN, f"{here} may not be written to", remedy)
    free = shutil.disk_usage(here).free
    return Finding("system", "cache", OK, f"{root}, {free / 1e9:.0f} GB free")


def _check_devices() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("system", "devices", BROKEN, f"torch: {error}", "Install torch again.")
    devices = []
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            name = torch.cuda.get_device_name(number)
            devices.append(f"cuda:{number} {name}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free")
    if torch.backends.mps.is_available():
        devices.append("mps")
    return Finding("system", "devices", OK, "; ".join([*devices, "cpu"]))


def requirements() -> list[str]:
    """The libraries that erase asks for, from the source tree or the installed package."""
    source = Path(__file__).parent.parent.parent / "pyproject.toml"
    if source.is_file():
        project = tomllib.loads(source.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == "erase":
            return list(project["dependencies"])
    return [line for line in importlib.metadata.requires("erase") or [] if "extra ==" not in line]


def check_libraries() -> Iterator[Finding]:
    """The installed versions against the project's bounds."""
    from packaging.requirements import Requirement

    for line in sorted(requirements()):
        wanted = Requirement(line)
        try:
            version = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            remedy = f"pip install '{line}'"
            yield Finding("libraries", wanted.name, MISSING, str(wanted.specifier), remedy)
            continue
        fits = wanted.specifier.contains(version, prereleases=True)
        detail = version if fits else f"{version}, needed {wanted.specifier}"
        remedy = "" if fits else f"pip install '{line}'"
        yield Finding("libraries", wanted.name, OK if fits else BROKEN, detail, remedy)


def check_package() -> Iterator[Finding]:
    """The weights that come with the installation, against their hashes."""
    for name, expected in packaged.PACKAGED_SHA256.items():
        try:
            right = packaged.packaged_sha256(name) == expected
        except (EraseError, OSError) as error:
            yield Finding("package", name, BROKEN, str(error), "Install it again.")
            continue
        if name == "nudenet" and not right:
            detail = "another network than 3.4.2's: its numbers may not compare"
            yield Finding("package", name, NOTE, detail)
        elif right:
            yield Finding("package", name, OK, f"sha256 {expected[:12]}…")
        else:
            detail = "its files are not those that came with erase"
            yield Finding("package", name, BROKEN, detail, "Install erase again.")


def check_prompts(read: Callable[[], tuple[int, str]]) -> Finding:
    """The prompt files.

    `read` returns how many class lists there are, and a hash; it raises EraseError or OSError when
    one is broken.
    """
    try:
        count, sha256 = read()
    except (EraseError, OSError) as error:
        return Finding("package", "prompts", BROKEN, str(error), "Install erase again.")
    detail = f"{count} class lists, sha256 {sha256[:12]}…"
    return Finding("package", "prompts", OK if count else MISSING, detail)


def check_item(item: Item, *, needed: bool) -> Finding:
    """Something of the inventory; `needed` when it was asked for."""
    try:
        where = item.find()
    except EraseError as error:
        absent = "not on this machine" in error.message
        state = MISSING if absent or not item.command else BROKEN
        size = f"; about {size_text(item.size)}" if item.fetch else ""
        detail = error.message if needed else item.what + size
        return Finding("data", item.name, state, detail, item.command or error.remedy, needed)
    return Finding("data", item.name, OK, str(where), "", needed)
