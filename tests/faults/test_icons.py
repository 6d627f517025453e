"""A folder of icons that is missing, incomplete, damaged or hostile: one line, before training."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from erase.cli.main import main
from erase.data.emoji import read_vocabulary
from erase.data.icons import read_icons
from erase.errors import InputError
from tests.emoji_world import TILE, draw_sheets, few_words

FEW = few_words()


def edit_index(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "index.json"
        content = json.loads(file.read_text(encoding="utf-8")) | changes
        file.write_text(json.dumps(content), encoding="utf-8")

    return edit


def overwrite(name: str, content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return write


def smaller(folder: Path) -> None:
    Image.new("RGBA", (TILE, TILE)).save(folder / "flat.webp")


def cut(folder: Path) -> None:
    file = folder / "flat.webp"
    file.write_bytes(file.read_bytes()[:40])


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no sheet": (lambda folder: (folder / "flat.webp").unlink(), "no sheet flat.webp"),
    "cut sheet": (cut, "flat.webp cannot be read"),
    "no picture": (overwrite("flat.webp", b"hello"), "flat.webp cannot be read"),
    "other size": (smaller, "as index.json says"),
    "index no JSON": (overwrite("index.json", b"{"), "not valid JSON"),
    "index a list": (overwrite("index.json", b"[]"), "index.json is not what it should be"),
    "index of texts": (edit_index(size="big"), "index.json is not what it should be"),
    "huge tiles": (edit_index(size=10**9), "usual size"),
    "no tiles": (edit_index(grid=[0, 1]), "usual size"),
    "object missing": (edit_index(objects=[{"name": "dog"}]), "has no 'cat'"),
    "more than the grid": (
        edit_index(
            objects=[{"name": f"x{n}"} for n in range(9)]
            + [{"name": n} for n in ("cat", "dog", "fox")]
        ),
        "more than its grid",
    ),
    "neither": (lambda folder: (folder / "index.json").unlink(), "npm install"),
}


@pytest.mark.fault("folder of icons")
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_icons_are_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    folder = draw_sheets(tmp_path / "icons", FEW)
    read_icons(folder, FEW)
    spoil, said = DAMAGES[damage]
    spoil(folder)
    with pytest.raises(InputError) as refused:
        read_icons(folder, FEW)
    whole = f"{refused.value.message} {refused.value.remedy}"
    assert said in whole
    assert "\n" not in whole


@pytest.mark.fault("folder of icons")
@pytest.mark.parametrize("data", ["nowhere", "file", "empty"])
def test_the_command_refuses_a_folder_without_icons(tmp_path: Path, data: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    command = ["train", "mini-emoji", "--data-dir", tmp_path / data, "--output", tmp_path / "out"]
    command += ["--judges-output", tmp_path / "judges"]
    result = CliRunner().invoke(main, [str(part) for part in command])
    assert result.exit_code == 2, result.output
    assert data in result.output
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "judges").exists()


@pytest.mark.fault("folder of icons")
def test_npm_packages_need_resvg_and_their_icons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for style in FEW.styles:
        folder = tmp_path / "node_modules" / style.package
        folder.mkdir(parents=True)
        (folder / "icons.json").write_text('{"icons": {"cat": {"body": "<g/>"}}}')
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(InputError, match="resvg-py, which is not installed"):
        read_icons(tmp_path, FEW)


@pytest.mark.fault("hostile small file")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("  cat:\n    synonyms", "  zebra:\n    synonyms"), "zebra"),
        (('rgb: "f7a8c4"', "rgb: pinkish"), "pinkish"),
        (("  cat: [dog, ", "  cat: [zebra, "), "zebra"),
        (("    - a picture of {object}\n", "    - a picture of {thing}\n"), "{thing}"),
        (("    - a picture of {object}\n", '    - "a picture of {object"\n'), "{object"),
        (("  - {name: dog, a: a dog}", "  - {name: dog, a: ''}"), "lacks `a`"),
        (("    licence: MIT\n", "    licence: [MIT]\n"), "styles"),
        (("    licence: MIT\n", "    colour: red\n"), "styles"),
        (("- {name: orange, rgb", "- {name: pink, rgb"), "twice"),
    ],
)
def test_a_damaged_vocabulary_is_refused(
    tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    from erase.data.prompts import prompts_root

    text = (prompts_root() / "emoji.yaml").read_text(encoding="utf-8")
    assert change[0] in text
    (tmp_path / "emoji.yaml").write_text(text.replace(*change), encoding="utf-8")
    with pytest.raises(InputError) as refused:
        read_vocabulary(tmp_path)
    assert said in refused.value.message
    assert "\n" not in refused.value.message
