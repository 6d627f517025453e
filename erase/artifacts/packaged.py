"""What comes with the installation, and the hashes that it is held against."""

import importlib.util
from pathlib import Path

from erase.errors import InputError
from erase.files import hash_file, hash_files

ASSETS = Path(__file__).parent.parent / "embedded" / "assets"
EMBEDDED = {"mini-sd": ASSETS / "mini-sd", "mini-emoji": ASSETS / "mini-emoji"}
"""Models inside the package, by alias."""
NUDENET_FILE = "320n.onnx"
PACKAGED_SHA256 = {
    "mini-sd": "e9395442c9385b4b8b46617e66bd50472b8109646a4a48fe17169d90479c9d94",
    "mini-emoji": "97aa8d91c2a6d629fac2973749796b478404e8ade7afc867c141260500467d31",
    "emoji-objects": "d8923a724b91d2073fab3cc7ba513bb4cd7b249069202a2ba576f863809a3044",
    "emoji-styles": "a320422959fcb607b0c03f10f6ca81945444df597259de85cb649ca3ab666b4b",
    "digits-classifier": "5e2efadf91e8c197ace792c46a004b3ac91723039fb506bb913f54f20c8af9d9",
    "nudenet": "c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f",
}
"""Over the weights and configurations that come with erase, and of nudenet 3.4.2's network."""


def packaged_sha256(name: str) -> str:
    """SHA-256 of what an entry of `PACKAGED_SHA256` stands for, as it lies on this machine."""
    if name == "nudenet":
        return hash_file(nudenet_file())
    folder = ASSETS / name
    files = [file for file in folder.rglob("*") if file.suffix in (".json", ".txt", ".safetensors")]
    return hash_files(files, folder)


def nudenet_file() -> Path:
    """The network inside the installed nudenet package; InputError when it is not there."""
    spec = importlib.util.find_spec("nudenet")
    folders = spec.submodule_search_locations if spec else None
    file = Path(next(iter(folders))) / NUDENET_FILE if folders else Path(NUDENET_FILE)
    if not file.is_file():
        raise InputError(
            f"The nudenet package, which holds the network {NUDENET_FILE}, is not installed.",
            "Install it again: pip install nudenet.",
        )
    return file
