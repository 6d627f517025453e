"""`manifest.jsonl`: the SHA-256 of every file that a command left in its folder.

Renders, latents and checkpoints are noted as they are written, everything else when the command
finishes. A folder inside that has a manifest of its own counts as one file, its manifest.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from erase.errors import InputError
from erase.files import append_jsonl, fingerprint, hash_file, read_json, write_jsonl
from erase.reading import ROWS, parse_json, read_bytes

MANIFEST = "manifest.jsonl"
RECORD = "record.json"
AS_WRITTEN = ("images/", "latents.safetensors")
"""How the names of files begin that are noted when they are written, and not written again."""
REMEDY = "Restore it from a copy. `erase verify DIR` lists every file that is not as it was."


def entries(folder: Path) -> dict[str, str]:
    """SHA-256 by name, relative to `folder`; of several lines of a name the last one counts.

    Empty without a manifest. A damaged or cut line is left out, so that its file is not known.
    """
    path = folder / MANIFEST
    known = {}
    text = read_bytes(path, ROWS).decode("utf-8", "replace") if path.is_file() else ""
    for line in text.split("\n")[:-1]:
        try:
            row = parse_json(line)
            name, sha256 = str(row["file"]), str(row["sha256"])
        except (ValueError, TypeError, KeyError):
            continue
        path_inside = PurePosixPath(name)
        if not path_inside.is_absolute() and ".." not in path_inside.parts and "\0" not in name:
            known[name] = sha256
    return known


def note(folder: Path, name: str, sha256: str) -> None:
    """Add a file by its hash; several processes may do so at once."""
    append_jsonl(folder / MANIFEST, {"file": name, "sha256": sha256})


def note_files(folder: Path, *names: str) -> None:
    """Hash files of the folder as they are now, and add them."""
    for name in names:
        note(folder, name, hash_file(folder / name))


def write_manifest(folder: Path, tops: Iterable[Path], known: Mapping[str, str]) -> None:
    """Write the manifest anew, with the files at or under some paths of the folder.

    Files that were noted as they were written, and those in `known`, keep that hash; the others
    are read, once, piece by piece.
    """
    noted = entries(folder)
    hashes = dict(known)
    for file in files_in(folder, tops):
        name = _name(folder, file)
        if name not in hashes:
            as_written = noted.get(name) if name.startswith(AS_WRITTEN) else None
            hashes[name] = as_written or hash_file(file)
    rows = ({"file": name, "sha256": hashes[name]} for name in sorted(hashes))
    write_jsonl(folder / MANIFEST, rows)


def keep_noted(folder: Path) -> None:
    """Leave in a manifest only the files that are noted as they are written, if they are there."""
    if not (folder / MANIFEST).is_file():
        return
    kept = {
        name: sha256
        for name, sha256 in entries(folder).items()
        if name.startswith(AS_WRITTEN) and (folder / name).is_file()
    }
    write_jsonl(folder / MANIFEST, ({"file": n, "sha256": h} for n, h in kept.items()))


def _name(folder: Path, file: Path) -> str:
    return file.relative_to(folder).as_posix()


def files_in(folder: Path, tops: Iterable[Path]) -> Iterator[Path]:
    """The files that lie at or under some paths of a folder; links to folders are not followed.

    Hidden files are left out. A folder with a manifest of its own is its manifest.
    """
    for top in sorted(tops):
        if top.name.startswith(".") or top == folder / MANIFEST:
            continue
        if top.is_file():
            yield top
        elif top.is_dir() and not top.is_symlink():
            own = top / MANIFEST
            yield from [own] if own.is_file() else files_in(folder, top.iterdir())


def is_sound(folder: Path, name: str, known: Mapping[str, str]) -> bool:
    """Whether a file is there with the hash that `known`, `entries(folder)`, has for it."""
    file = folder / name
    return name in known and file.is_file() and hash_file(file) == known[name]


def check(folder: Path, *tops: str) -> None:
    """Raise InputError, naming the file, when one of those in the manifest is not as it was.

    Only files at or under the paths `tops` are read; without any, all. A folder without a manifest,
    from an earlier version, is taken as it is; one whose record promises a manifest is not.
    """
    known = entries(folder)
    if RECORD not in known and _promised(folder):
        raise InputError(f"{folder / MANIFEST} is missing or damaged.", REMEDY)
    for name, sha256 in sorted(known.items()):
        if tops and not any(PurePosixPath(name).is_relative_to(top) for top in tops):
            continue
        if not (folder / name).is_file():
            raise InputError(f"{folder / name} is missing.", REMEDY)
        if hash_file(folder / name) != sha256:
            raise InputError(f"{folder / name} was changed after it was written.", REMEDY)


def check_combined(folder: Path, files: Iterable[Path], combined: str) -> None:
    """`check` of a model whose `hash_files` is known: nothing is read again unless it differs.

    Args:
        folder: a run's, or of any other diffusers model, which has no manifest.
        files: all that can change the model: its index, and the files of its parts.
        combined: `hash_files(files, folder)`.

    Raises:
        InputError: a file was changed, or is gone, or was put into a part from outside.
    """
    known = entries(folder)
    if RECORD not in known and (not known or (folder / RECORD).is_file()):
        check(folder)  # no manifest; or that of a run which has not finished
        return
    names = {_name(folder, file) for file in files}
    parts = _parts(folder)
    for name in sorted(names - set(known)):
        if PurePosixPath(name).parts[0] in parts:
            raise InputError(
                f"{folder / name} was put there after the run had ended.",
                "Remove it. `erase verify DIR` lists every file that is not as it was.",
            )
    if fingerprint({name: known.get(name) for name in names}) != combined:
        check(folder, "model_index.json", *parts)
    for name in known:
        if PurePosixPath(name).parts[0] in parts and not (folder / name).is_file():
            raise InputError(f"{folder / name} is missing.", REMEDY)


def check_model(folder: Path, *more: str) -> None:
    """`check` of the parts of the model in a diffusers folder, and of `more`."""
    check(folder, "model_index.json", *_parts(folder), *more)


def _parts(folder: Path) -> list[str]:
    index = read_json(folder / "model_index.json")
    return [name for name, value in index.items() if isinstance(value, list) and any(value)]


def _promised(folder: Path) -> bool:
    record = folder / RECORD
    return record.is_file() and read_json(record).get("manifest") == MANIFEST
