"""What suites, metrics and models need beyond the package: for `erase fetch` and `erase doctor`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from erase.artifacts import hub
from erase.artifacts.cache import cache_folder
from erase.artifacts.datasets import ARCHIVES, fetch_dataset, find_dataset
from erase.artifacts.download import Progress
from erase.artifacts.models import (
    HUB,
    HUB_SIZES,
    OWN,
    REVISIONS,
    missing_parts,
    model_snapshot,
)
from erase.artifacts.packaged import EMBEDDED, nudenet_file
from erase.artifacts.weights import (
    CLIP,
    CLIP_SIZES,
    WEIGHTS,
    fetch_clip,
    fetch_weights,
    find_clip,
    find_weights,
    places,
    weight_names,
)
from erase.config.fields import shown
from erase.config.values import unusable_text
from erase.errors import EraseError, InputError
from erase.reading import expanded

FindModel = Callable[[str], Path]
"""From a model's name to its diffusers folder on this machine; InputError when it is not here."""


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

    def is_here(self) -> bool:
        """Whether it is on this machine, and whole."""
        try:
            self.find()
        except EraseError:
            return False
        return True


def list_items(
    suites: Sequence[str] = (),
    models: Sequence[str] = (),
    metrics: Sequence[str] = (),
    weights: Sequence[str] = (),
    *,
    find_model: FindModel,
) -> list[Item]:
    """What suites (with their default protocols), models, metrics and weights need, each once.

    Raises InputError for an unknown name.
    """
    items: list[Item] = []
    for suite in suites:
        items += _suite_items(suite)
    for metric in metrics:
        items += _metric_items(metric, {})
    items += [_model(name, find_model) for name in models]
    items += [_weights(name) for name in weights]
    return list({item.name: item for item in items}.values())


def _suite_items(name: str) -> list[Item]:
    from erase.scoring.suite import load_suite  # scipy takes its time

    suite = load_suite(name)
    protocol = suite.protocols()["default"]
    command = f"erase fetch --suite {name}"
    items: list[Item] = []
    if suite.hub:
        repository, file = suite.hub
        items.append(_table(repository, file, command))
    items += [_dataset(dataset, command) for dataset in suite.datasets]
    if protocol.classifier in WEIGHTS:
        items.append(_weights(protocol.classifier))
    for metric in protocol.metrics:
        items += _metric_items(metric, protocol.settings.get(metric, {}))
    return items


def _metric_items(name: str, given: Mapping[str, Any]) -> list[Item]:
    from erase.scoring.metric import load_metric  # scipy takes its time

    metric = load_metric(name)
    defaults = {
        key: value[0] if isinstance(value, tuple) else value
        for key, value in metric.settings.items()
    }
    settings, needs = {**defaults, **given}, metric.requires
    if "nudenet" in needs:
        return [Item("nudenet", "NudeNet's detector", nudenet_file)]
    if "clip" in needs:
        model = str(settings.get("model"))
        return [_weights(f"clip-{model}")] if model in CLIP else []
    if "lpips" in needs:
        return [_weights(f"lpips-{settings.get('net')}")]
    if str(settings.get("features", "")).startswith("inception"):
        return [_weights("inception")]
    return []  # its classifier depends on the suite


def _weights(name: str) -> Item:
    command = f"erase fetch --weights {name}"
    clip = name.removeprefix("clip-")
    if name.startswith("clip-") and clip in CLIP:
        return Item(
            name,
            f"{CLIP[clip]}, for the CLIP score",
            partial(find_clip, clip),
            command,
            lambda _: fetch_clip(clip),  # the hub's library draws its own bars
            CLIP_SIZES[clip],
            hub.hub_cache(),
        )
    if name not in WEIGHTS:
        raise InputError(f"There are no weights {name!r}.", f"Known: {', '.join(weight_names())}.")
    spec = WEIGHTS[name]
    return Item(
        name,
        spec.use,
        partial(find_weights, name),
        command,
        partial(fetch_weights, name),
        spec.size,
        f"{places(name)[0].parent}, as {spec.file}",
    )


def _model(name: str, find_model: FindModel) -> Item:
    def find() -> Path:
        folder = find_model(name)
        if missing := missing_parts(folder):
            raise InputError(f"{name} is not whole: {folder} lacks {', '.join(missing)}.")
        return folder

    if why := unusable_text(name, path=True):
        raise InputError(f"The model {shown(name)} {why}.", "Check --model.")
    if name in (*EMBEDDED, *OWN) or expanded(name).is_dir():
        return Item(name, "model", find)
    hub_id = HUB.get(name, name)
    if hub_id.count("/") != 1:
        find_model(name)  # says what is wrong with the name

    def fetch(_: Progress | None) -> None:
        model_snapshot(hub_id, REVISIONS.get(hub_id))

    return Item(
        name,
        f"{hub_id}, model",
        find,
        f"erase fetch --model {name}",
        fetch,
        HUB_SIZES.get(name),
        hub.hub_cache(),
    )


def _table(repository: str, file: str, command: str) -> Item:
    def find() -> Path:
        try:
            return hub.dataset_file(repository, file, local=True)
        except hub.HubError as error:
            raise InputError(f"{file} of {repository} is not on this machine.") from error

    def fetch(_: Progress | None) -> None:
        hub.dataset_file(repository, file)

    return Item(
        repository,
        "prompts, hub data set",
        find,
        command,
        fetch,
        place=f"any folder, and give --prompt-table FILE; or {hub.hub_cache()}",
    )


def _dataset(name: str, command: str) -> Item:
    def fetch(progress: Progress | None) -> None:
        fetch_dataset(name, progress=progress)

    return Item(
        name,
        f"{ARCHIVES[name].title}, official binary version",
        partial(find_dataset, name),
        command,
        fetch,
        ARCHIVES[name].size,
        str(cache_folder("datasets")),
    )


def size_text(size: int | None) -> str:
    """Bytes for people."""
    if size is None:
        return "small"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
