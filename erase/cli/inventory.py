"""What evaluations and models need beyond the package: for `erase fetch` and `erase doctor`."""

import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from erase.artifacts import fetching
from erase.artifacts.download import Progress, download
from erase.artifacts.fetching import CLIP, CLIP_PATTERNS, CLIP_REVISIONS, CLIP_SIZES, WEIGHTS
from erase.errors import InputError, RunError
from erase.files import read_json

HUB_SIZES = {
    "sd-1.4": 4_270_000_000,
    "sd-1.5": 4_270_000_000,
    "sd-2.1": 5_160_000_000,
    "sdxl": 13_900_000_000,
}
CIFAR_SIZE = 170_052_171
LEARNED = ("unet", "vae", "text_encoder", "text_encoder_2", "transformer")


@dataclass(frozen=True)
class Item:
    """Something that is needed, and may have to be fetched."""

    name: str
    what: str
    """For people."""
    find: Callable[[], Path]
    """Where it lies; raises EraseError, saying why, when it is not there or not whole."""
    command: str = ""
    """What fetches it; empty for what comes with the installation."""
    fetch: Callable[[Progress | None], None] | None = None
    """Fetches it; RunError when that fails."""
    size: int | None = None
    """Bytes, about."""
    place: str = ""
    """Where to put it by hand."""


def weight_names() -> list[str]:
    """What `--weights` takes."""
    return [*WEIGHTS, *(f"clip-{name}" for name in CLIP)]


def wanted(
    suites: Sequence[str] = (),
    models: Sequence[str] = (),
    metrics: Sequence[str] = (),
    weights: Sequence[str] = (),
) -> list[Item]:
    """What suites (with their default protocols), models, metrics and names ask for, each once.

    Raises InputError for a name that nothing goes by.
    """
    found: list[Item] = []
    for suite in suites:
        found += _of_suite(suite)
    for metric in metrics:
        found += _of_metric(metric, {})
    found += [_model(name) for name in models]
    found += [_weights(name) for name in weights]
    return list({item.name: item for item in found}.values())


def missing_parts(folder: Path) -> list[str]:
    """Files or folders that a diffusers folder names, but does not hold."""
    index = read_json(folder / "model_index.json")
    missing = []
    for part, entry in index.items():
        absent = not isinstance(entry, list) or None in entry
        if part.startswith("_") or absent or part == "safety_checker":
            continue
        inside = folder / part
        if not inside.is_dir():
            missing.append(part)
        elif part in LEARNED:
            missing += _missing_weights(inside)
    return missing


def _missing_weights(part: Path) -> list[str]:
    lists = list(part.glob("*.safetensors.index.json"))
    if not lists:
        return [] if any(part.glob("*.safetensors")) else [f"{part.name}/*.safetensors"]
    shards = {str(name) for name in read_json(lists[0])["weight_map"].values()}
    return [f"{part.name}/{name}" for name in sorted(shards) if not (part / name).is_file()]


def _of_suite(name: str) -> list[Item]:
    from erase.scoring.suite import load_suite

    suite = load_suite(name)
    protocol = suite.protocols()["default"]
    found = [_table(*suite.hub)] if suite.hub else []
    if "cifar10" in suite.datasets:
        found.append(_cifar10())
    if protocol.classifier in WEIGHTS:
        found.append(_weights(protocol.classifier))
    for metric in protocol.metrics:
        found += _of_metric(metric, protocol.settings.get(metric, {}))
    return found


def _of_metric(name: str, told: Mapping[str, Any]) -> list[Item]:
    from erase.scoring.metric import load_metric

    metric = load_metric(name)
    defaults = {
        key: value[0] if isinstance(value, tuple) else value
        for key, value in metric.settings.items()
    }
    settings, needs = {**defaults, **told}, metric.requires
    if "nudenet" in needs:
        return [nudenet()]
    if "clip" in needs:
        model = str(settings.get("model"))
        return [_weights(f"clip-{model}")] if model in CLIP else []
    if "lpips" in needs:
        return [_weights(f"lpips-{settings.get('net')}")]
    if str(settings.get("features", "")).startswith("inception"):
        return [_weights("inception")]
    return []  # its classifier depends on the suite


def nudenet() -> Item:
    """The detector, which comes with the package nudenet."""

    def find() -> Path:
        from erase.judges.nudenet import model_file

        return model_file()

    return Item("nudenet", "NudeNet's detector", find)


def _weights(name: str) -> Item:
    clip = name.removeprefix("clip-")
    if name.startswith("clip-") and clip in CLIP:
        fetch = partial(fetching.fetch_snapshot, CLIP[clip], CLIP_REVISIONS[clip], CLIP_PATTERNS)
        return Item(
            name,
            f"{CLIP[clip]}, for the CLIP score",
            partial(fetching.find_clip, clip),
            f"erase fetch --weights {name}",
            _hub_fetch(fetch),
            CLIP_SIZES[clip],
            _hub_cache(),
        )
    if name not in WEIGHTS:
        raise InputError(f"There are no weights {name!r}.", f"Known: {', '.join(weight_names())}.")
    spec, target = WEIGHTS[name], fetching.places(name)[0]

    def get(progress: Progress | None) -> None:
        download(fetching.address(name), target, spec.sha256, progress=progress)

    return Item(
        name,
        spec.use,
        partial(fetching.find_weights, name),
        f"erase fetch --weights {name}",
        get,
        spec.size,
        f"{target.parent}, as {spec.file}",
    )


def _model(name: str) -> Item:
    from erase.models.loading import EMBEDDED, HUB, IGNORED, OWN, PATTERNS, REVISIONS, resolve

    def find() -> Path:
        folder = resolve(name, fetch=False).path
        if missing := missing_parts(folder):
            raise InputError(f"{name} is not whole: {folder} lacks {', '.join(missing)}.")
        return folder

    if name in (*EMBEDDED, *OWN) or Path(name).expanduser().is_dir():
        return Item(name, "model", find)
    hub_id = HUB.get(name, name)
    if hub_id.count("/") != 1:
        resolve(name, fetch=False)  # says what is wrong with the name
    fetch = partial(fetching.fetch_snapshot, hub_id, REVISIONS.get(hub_id), PATTERNS, IGNORED)
    return Item(
        name,
        f"{hub_id}, model",
        find,
        f"erase fetch --model {name}",
        _hub_fetch(fetch),
        HUB_SIZES.get(name),
        _hub_cache(),
    )


def _table(repository: str, file: str) -> Item:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    get = partial(hf_hub_download, repository, file, repo_type="dataset")

    def find() -> Path:
        try:
            return Path(get(local_files_only=True))
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
            raise InputError(f"{file} of {repository} is not on this machine.") from error

    def fetch(_: Progress | None) -> None:
        try:
            get()
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
            raise fetching.hub_failure(repository, error, "datasets") from error

    return Item(
        repository,
        "prompts, hub data set",
        find,
        "erase fetch --suite i2p",
        fetch,
        place=f"any folder, and give --prompts FILE; or {_hub_cache()}",
    )


def _cifar10() -> Item:
    root = Path.home() / ".cache" / "erase" / "datasets"

    def find() -> Path:
        from erase.data.classification import CIFAR

        spec = CIFAR["cifar10"]
        folder = root / spec.folder
        names = [*spec.train, *spec.test, spec.names]
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise InputError(f"CIFAR-10 is not on this machine: {folder / missing[0]} is missing.")
        return folder

    def fetch(progress: Progress | None) -> None:
        from erase.data.classification import CIFAR, CIFAR_SITE

        spec = CIFAR["cifar10"]
        archive = root / spec.archive
        if not archive.is_file():
            download(
                CIFAR_SITE + spec.archive,
                archive,
                spec.archive_md5,
                algorithm="md5",
                progress=progress,
            )
        unpack(archive, spec.folder)

    return Item(
        "cifar10",
        "CIFAR-10, official binary version",
        find,
        "erase fetch --suite cifar10",
        fetch,
        CIFAR_SIZE,
        str(root),
    )


def unpack(archive: Path, folder: str) -> None:
    """Unpack a checked archive's folder beside it; it is there whole or not at all.

    RunError for an archive that is broken or holds no such folder.
    """
    target = archive.parent / folder
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".unpacking-") as aside:
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(aside, filter="data")
            if target.exists():
                shutil.rmtree(target)
            (Path(aside) / folder).rename(target)
        except (tarfile.TarError, OSError, EOFError) as error:
            raise RunError(f"{archive} cannot be unpacked ({error}).", "Delete it.") from error


def _hub_fetch(fetch: Callable[[], Path]) -> Callable[[Progress | None], None]:
    def get(_: Progress | None) -> None:  # the hub's library draws its own bars
        fetch()

    return get


def _hub_cache() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    return str(HF_HUB_CACHE)


def size_text(size: int | None) -> str:
    """Bytes for people."""
    if size is None:
        return "small"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def total_size(items: Iterable[Item]) -> int:
    """Bytes of what is known of."""
    return sum(item.size or 0 for item in items)
