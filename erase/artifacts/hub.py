"""The hub: the only module that imports its library, and the only one that reads its errors."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from logging import ERROR
from pathlib import Path

from erase.artifacts import network
from erase.errors import RunError


class HubError(RunError):
    """What was asked for is not in the hub's cache, or could not be fetched from the hub.

    `reason` is what went wrong in few words, for messages.
    """

    def __init__(self, message: str, remedy: str, reason: str) -> None:
        super().__init__(message, remedy)
        self.reason = reason


_nothing_is_fetched = False


@contextlib.contextmanager
def nothing_is_fetched() -> Iterator[None]:
    """Inside, only the hub's cache is looked at, for plans that must not download anything."""
    global _nothing_is_fetched
    before, _nothing_is_fetched = _nothing_is_fetched, True
    try:
        yield
    finally:
        _nothing_is_fetched = before


def snapshot(
    repository: str,
    revision: str | None = None,
    *,
    patterns: Sequence[str] | None = None,
    ignored: Sequence[str] = (),
    local: bool = False,
) -> Path:
    """The folder of a hub model in the hub's cache; what is there is not fetched again.

    Args:
        repository: `owner/name`.
        revision: commit, branch or tag; None is the main branch.
        patterns: of the files that are wanted; None is all.
        ignored: patterns of files that are left out.
        local: look in the cache only; the folder may then lack files.

    Raises HubError when it is not there and cannot be fetched.
    """
    from huggingface_hub import snapshot_download

    return _read(
        lambda local: snapshot_download(
            repository,
            revision=revision,
            allow_patterns=None if patterns is None else list(patterns),
            ignore_patterns=list(ignored) or None,
            local_files_only=local or _nothing_is_fetched,
        ),
        repository,
        "models",
        local,
    )


def dataset_file(repository: str, file: str, *, local: bool = False) -> Path:
    """A file of a hub data set in the hub's cache; HubError as for `snapshot`."""
    from huggingface_hub import hf_hub_download

    return _read(
        lambda local: hf_hub_download(
            repository,
            file,
            repo_type="dataset",
            local_files_only=local or _nothing_is_fetched,
        ),
        repository,
        "datasets",
        local,
    )


def first_of(ways: Iterable[Callable[[], Path]]) -> Path:
    """The answer of the first way that has one; the last way's HubError when none has."""
    failure: HubError | None = None
    for way in ways:
        try:
            return way()
        except HubError as error:
            failure = error
    assert failure is not None
    raise failure


def local_snapshot(repository: str, revision: str | None) -> Path | None:
    """The folder of a hub model in the hub's cache, whole or not; None when it is not there."""
    try:
        return snapshot(repository, revision, local=True)
    except HubError:
        return None


def is_offline() -> bool:
    """Whether `HF_HUB_OFFLINE` forbids the hub's library to use the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def hub_cache() -> str:
    """The hub's own cache folder, which other programs share."""
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)


@cache
def _failure() -> str | None:
    """Why the hub cannot be reached; None where it answers. Asked once in each process.

    The hub's library itself would ask six times, for a minute, and print a line for each.
    """
    from huggingface_hub import constants, get_session

    def ask() -> None:
        seconds = network.PATIENCE - 1
        status = get_session().head(str(constants.ENDPOINT), timeout=seconds).status_code
        if status >= 500:
            raise ConnectionError(f"it answers {status}")

    return network.failure(ask)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep the library's lines about its attempts to itself: the error says what failed."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextlib.contextmanager
def once() -> Iterator[None]:
    """Let another library look into the hub's cache alone where the hub cannot be reached."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or _failure() is not None
    try:
        with _silent():
            yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _read(get: Callable[[bool], str], repository: str, kind: str, local: bool) -> Path:
    """Call the hub's library; its errors become HubErrors.

    `get` is told whether to look in the cache only, which is also done where the hub cannot be
    reached. `kind` is the beginning of the folder's name in the hub's cache: `models` or
    `datasets`.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    unreachable = None if local or is_offline() else _failure()
    try:
        with _silent():
            return Path(get(local or unreachable is not None))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        why, remedy = _explain(error, unreachable)
        raise HubError(
            f"{repository} was not fetched: {why}.",
            f"{remedy} Or fetch it elsewhere, and copy {kind}--{repository.replace('/', '--')} to"
            f" {hub_cache()}.",
            f"no network: {unreachable}" if unreachable else type(error).__name__,
        ) from error


def _explain(error: Exception, unreachable: str | None) -> tuple[str, str]:
    """Why the hub could not be read, and what to do."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if is_offline():
        return "HF_HUB_OFFLINE is set", "Unset it."
    if isinstance(error, GatedRepoError):
        return "it asks for terms to be accepted", "Accept them on the hub, then log in."
    if isinstance(error, RepositoryNotFoundError):
        return "the hub knows no such repository", "Check the name, or log in."
    why = unreachable or type(error).__name__
    return f"the hub cannot be reached ({why})", "Check the network."
