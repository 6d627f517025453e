"""Concept files: the prompts of one concept each, read from the prompt folder and checked.

`prompts/concepts/NAME.yaml` holds a concept: its `name` and `aliases`, `forget` (prompt → what is
shown instead, a text or a list of texts), `retain` (prompts; `_neutral` stands for those of
`_neutral.yaml`), and, where there are any, its `kind` (nudity, style or, by default, class), its
evaluation `suite`, a `recipe` of settings with their `source`, and what a detector finds of it
(`nudenet`). `_word.yaml` is the same with `{word}`, and `_pair.yaml` with `{word}` and `{within}`.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from erase.config.concept import ConceptConfig
from erase.config.recipes import KINDS
from erase.data.prompts import as_text
from erase.errors import InputError
from erase.files import read_yaml
from erase.scoring.names import plain

FOLDER = "concepts"
TEMPLATE = "_word.yaml"
PAIR_TEMPLATE = "_pair.yaml"
FIELDS = {"name", "aliases", "forget", "retain", "suite", "source", "recipe", "nudenet", "kind"}
CLOSE = 0.8
"""Similarity from which a word is taken for a misspelt name."""


def read_concept_files(root: Path) -> list[dict[str, Any]]:
    """The checked contents of a prompt folder's concept files, without the templates."""
    paths = sorted((root / FOLDER).glob("*.yaml"))
    return [_read(path) for path in paths if not path.name.startswith("_")]


def find_concept_file(contents: Sequence[Mapping[str, Any]], word: str) -> Mapping[str, Any] | None:
    """The concept file with this name or alias, in any case; None if there is none."""
    return next((c for c in contents if plain(word) in map(plain, spellings(c))), None)


def spellings(content: Mapping[str, Any]) -> tuple[str, ...]:
    """The name of a concept file and its aliases."""
    return (str(content["name"]), *content.get("aliases", ()))


def _read(path: Path) -> dict[str, Any]:
    """Read and check one concept file; InputError says what is wrong with it."""
    content = read_yaml(path)
    name, forget = as_text(content.get("name")), content.get("forget")
    aliases, retain = content.get("aliases") or [], content.get("retain")
    recipe, nudenet = content.get("recipe") or {}, content.get("nudenet") or {}
    if unknown := sorted(map(str, set(content) - FIELDS)):
        raise _unusable(path, f"it has an unknown part {unknown[0]!r}")
    if not name:
        raise _unusable(path, "it needs a `name`")
    if not isinstance(forget, dict) or not forget:
        raise _unusable(path, "`forget` has to say for each prompt what is shown instead")
    if not isinstance(retain, list) or not retain or not isinstance(aliases, list):
        raise _unusable(path, "`retain`, and `aliases` if there are any, have to be lists")
    if not isinstance(content.get("suite"), str | None):
        raise _unusable(path, "`suite` has to be a text")
    if not isinstance(recipe, dict) or not isinstance(nudenet, dict):
        raise _unusable(path, "`recipe` and `nudenet` have to be `name: value` lines")
    if content.get("kind", "class") not in KINDS:
        raise _unusable(path, f"its `kind` is none of {', '.join(KINDS)}")
    ConceptConfig.check_names(recipe, f"The recipe of {path}")
    if fixed := [key for key in recipe if getattr(ConceptConfig(), key) is not None]:
        raise _unusable(path, f"a recipe cannot set {fixed[0]!r}, which has a default of its own")
    labels, threshold = nudenet.get("labels", []), nudenet.get("threshold", 0.6)
    if not isinstance(labels, list) or type(threshold) not in (int, float):
        raise _unusable(path, "`nudenet` needs a list of `labels` and a `threshold`")
    anchors = {key: text if isinstance(text, list) else [text] for key, text in forget.items()}
    texts = [*anchors, *(t for items in anchors.values() for t in items), *retain, *aliases]
    for text in texts:
        if as_text(text) is None:
            raise _unusable(path, f"it has {text!r}, which YAML does not read as text: quote it")
    return {
        **content,
        "name": name,
        "aliases": tuple(map(str, aliases)),
        "forget": {str(key): tuple(map(str, items)) for key, items in anchors.items()},
        "retain": tuple(map(str, retain)),
        "recipe": recipe,
        "nudenet": {str(label): float(threshold) for label in labels},
    }


def _unusable(path: Path, why: str) -> InputError:
    return InputError(f"{path} is no concept file: {why}.", "See prompts/concepts/nudity.yaml.")


def concept_from_template(
    word: str, root: Path, names: Iterable[str], *, own_prompts: bool
) -> dict[str, Any]:
    """The content of a concept file for a word that no concept file or class list has.

    Args:
        word: what to forget.
        root: the prompt folder.
        names: of all known concepts and classes.
        own_prompts: whether the user gives all prompts; the template is then not used.

    Raises InputError for a word that looks like a misspelt name, unless `own_prompts`.
    """
    names = tuple(names)
    path = root / FOLDER / TEMPLATE
    if own_prompts:
        return {"name": word, "forget": {word: ("",)}, "retain": ()}
    folded = {plain(name): name for name in names}
    close = difflib.get_close_matches(plain(word), folded, n=1, cutoff=CLOSE)
    if close or not word.strip() or not path.is_file():
        hint = f"Did you mean {folded[close[0]]!r}? " if close else ""
        raise InputError(
            f"There is no concept {word!r}.",
            f"{hint}Known: {', '.join(names)}; or give --forget-prompts and --retain-prompts.",
        )
    return _filled_in(_read(path), word=word) | {
        "note": f"no concept file or class list knows {word!r}: it is forgotten from template"
        " prompts and the retain set is everyday prompts, which fit it only by chance",
    }


def pair_from_template(word: str, within: str, root: Path) -> dict[str, Any]:
    """The content of a concept file for a thing within another one, of any words.

    Raises InputError for a word that is empty, two that are the same, or where the prompt folder
    has no template for pairs.
    """
    path = root / FOLDER / PAIR_TEMPLATE
    if not word.strip() or not within.strip() or plain(word) == plain(within):
        raise InputError(
            f"{word!r} cannot be forgotten within {within!r}.", "Name two different things."
        )
    if not path.is_file():
        raise InputError(f"{path} is missing.", "Take it from the project's own prompts folder.")
    return _filled_in(_read(path), word=word, within=within) | {
        "pair": (word.strip(), within.strip()),
        "note": f"{word.strip()!r} within {within.strip()!r} is forgotten from template prompts;"
        " --forget-prompts and --retain-prompts fit better where the words do not",
    }


def _filled_in(content: Mapping[str, Any], **words: str) -> dict[str, Any]:
    """A template's name and prompts with the words in their places."""

    def fill_in(text: str) -> str:
        for field, word in words.items():
            text = text.replace(f"{{{field}}}", word.strip())
        return text

    return {
        "name": fill_in(content["name"]),
        "forget": {
            fill_in(key): tuple(map(fill_in, anchors)) for key, anchors in content["forget"].items()
        },
        "retain": tuple(map(fill_in, content["retain"])),
    }


def shared_prompts(root: Path, name: str) -> tuple[str, ...]:
    """The prompts of `concepts/_NAME.yaml`."""
    path = root / FOLDER / f"{name}.yaml"
    prompts = read_yaml(path).get("prompts")
    if not isinstance(prompts, list) or not prompts or None in map(as_text, prompts):
        raise InputError(f"{path} holds no prompts.", "Write them as a list named `prompts`.")
    return tuple(map(str, prompts))
