"""Nothing from outside of a folder gets into a report or a training set, unless it is asked for."""

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from erase.cli.report import report
from erase.data.captioned import METADATA, read_folder
from erase.data.classes import read_class_folder
from erase.data.classification import load_dataset
from erase.data.pictures import list_pictures
from erase.errors import InputError
from erase.files import lies_inside
from erase.judges.reference import real_images
from erase.report.data import load_evaluation
from erase.report.evaluation import write_report
from tests.report_world import make

SECRET = (12, 200, 90)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A folder with a picture of one colour that nothing else has."""
    folder = tmp_path / "private"
    (folder / "images").mkdir(parents=True)
    for name in ("secret.png", "images/s0000.png", "images/s0001.png"):
        Image.new("RGB", (96, 96), SECRET).save(folder / name)
    (folder / "secret.txt").write_text("a private caption")
    return folder


def shows_secret(page: str) -> bool:
    """Whether a picture of the page has the secret's colour."""
    pictures = re.findall(r"data:image/\w+;base64,([A-Za-z0-9+/=]+)", page)
    assert pictures
    images = [Image.open(io.BytesIO(base64.b64decode(code))).convert("RGB") for code in pictures]
    return any(
        (np.abs(np.asarray(image).astype(int) - SECRET).max(-1) < 8).mean() > 0.05
        for image in images
    )


def change_row(folder: Path, **fields: object) -> None:
    file = folder / "samples.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0] |= fields
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def link_image(folder: Path, secret: Path) -> None:
    (folder / "images" / "s0000.png").unlink()
    (folder / "images" / "s0000.png").symlink_to(secret / "secret.png")


def link_folder(folder: Path, secret: Path) -> None:
    (folder / "images").rename(folder / "old")
    (folder / "images").symlink_to(secret / "images")


def link_baseline(folder: Path, secret: Path) -> None:
    link_image(folder.parent / "baseline", secret)


LEADS_OUT: dict[str, Callable[[Path, Path], None]] = {
    "absolute": lambda folder, secret: change_row(folder, image=str(secret / "secret.png")),
    "upwards": lambda folder, _: change_row(folder, image="../private/secret.png"),
    "down and up": lambda folder, _: change_row(folder, image="images/../../private/secret.png"),
    "linked image": link_image,
    "linked folder": link_folder,
    "no text": lambda folder, secret: change_row(folder, image=[str(secret / "secret.png")]),
    "NUL": lambda folder, _: change_row(folder, image="images/s0000.png\0"),
    "id of the baseline": lambda folder, _: change_row(folder, id="../../private/secret"),
    "linked baseline image": link_baseline,
}


@pytest.mark.fault("way out of a folder")
@pytest.mark.parametrize("name", sorted(LEADS_OUT))
def test_a_report_shows_no_image_from_elsewhere(tmp_path: Path, secret: Path, name: str) -> None:
    folder = make(tmp_path / "run", count=2)
    LEADS_OUT[name](folder, secret)
    result = CliRunner().invoke(report, [str(folder)])
    if isinstance(result.exception, InputError):
        assert name == "no text" or "lies outside of" in result.exception.message
        assert "\n" not in result.exception.message
    else:  # a name that leads nowhere: nothing is shown in its place
        assert name == "no text", result.output
        assert not shows_secret((folder / "report.html").read_text())


@pytest.mark.fault("way out of a folder")
@pytest.mark.parametrize("kind", ["folder", "evaluation", "renders of another model", "none"])
def test_a_record_cannot_name_another_folder_as_the_baselines(
    tmp_path: Path, secret: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make(tmp_path / "run", count=2)
    if kind == "evaluation":
        (secret / "record.json").write_text(json.dumps({"kind": "evaluation"}))
    elif kind == "renders of another model":
        (secret / "render.json").write_text(json.dumps({"fingerprint": "c" * 64}))
    record = json.loads((folder / "record.json").read_text())
    record["baseline"]["images_folder"] = str(secret)
    if kind == "none":
        del record["baseline"]["images_fingerprint"]
    (folder / "record.json").write_text(json.dumps(record))
    page = folder / "report.html"
    write_report(page, load_evaluation(folder))
    assert not shows_secret(page.read_text())
    assert str(secret) in capsys.readouterr().err


def test_the_check_would_see_the_secret(tmp_path: Path, secret: Path) -> None:
    folder = make(tmp_path / "run", count=2)
    assert not shows_secret(write_page(folder))
    for image in (folder / "images").iterdir():
        image.write_bytes((secret / "secret.png").read_bytes())
    assert shows_secret(write_page(folder))


def write_page(folder: Path) -> str:
    page = folder / "report.html"
    write_report(page, load_evaluation(folder, show_explicit=True))
    return page.read_text()


def linked_file(folder: Path, secret: Path) -> None:
    (folder / "a" / "9.png").symlink_to(secret / "secret.png")


def linked_class(folder: Path, secret: Path) -> None:
    (folder / "c").symlink_to(secret)


def linked_deep(folder: Path, secret: Path) -> None:
    (folder / "a" / "deep").mkdir()
    (folder / "a" / "deep" / "more").symlink_to(secret, target_is_directory=True)


def chain(folder: Path, secret: Path) -> None:
    (folder / "a" / "8.png").symlink_to(secret / "secret.png")
    (folder / "a" / "9.png").symlink_to("8.png")


LINKS = {
    "file": linked_file,
    "class": linked_class,
    "deep folder": linked_deep,
    "chain": chain,
}
READERS: dict[str, Callable[[Path, bool], int]] = {
    "captioned": lambda folder, follow: len(read_folder(folder, ("x",), follow_links=follow).paths),
    "classes": lambda folder, follow: sum(
        map(len, read_class_folder(folder, (), follow_links=follow).files)
    ),
    "classifier": lambda folder, follow: sum(
        len(part)
        for data in [load_dataset("folder", folder, image_size=8, follow_links=follow)]
        for part in (data.train, data.test)
    ),
    "reference": lambda folder, follow: len(
        real_images(folder, ("a", "b", "c"), {}, follow_links=follow).files
    ),
}


def tree(folder: Path) -> Path:
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (8, 8), "red").save(folder / label / f"{number}.png")
    return folder


@pytest.mark.fault("way out of a folder")
@pytest.mark.parametrize("link", sorted(LINKS))
@pytest.mark.parametrize("reader", sorted(READERS))
def test_links_out_of_an_image_folder_are_refused_or_asked_for(
    tmp_path: Path, secret: Path, link: str, reader: str
) -> None:
    folder = tree(tmp_path / "data")
    LINKS[link](folder, secret)
    with pytest.raises(InputError, match="is a link that leads out of") as caught:
        READERS[reader](folder, False)
    assert "--follow-links" in caught.value.remedy
    assert str(secret) in caught.value.message
    added = {"file": 1, "chain": 2, "class": 3, "deep folder": 3}[link]
    assert READERS[reader](folder, True) == 10 + added


@pytest.mark.fault("way out of a folder")
def test_a_caption_file_is_no_way_out(tmp_path: Path, secret: Path) -> None:
    folder = tree(tmp_path / "data")
    (folder / "a" / "0.txt").symlink_to(secret / "secret.txt")
    with pytest.raises(InputError, match="leads out of"):
        read_folder(folder, ("x",))
    assert "a private caption" in read_folder(folder, ("x",), follow_links=True).captions


@pytest.mark.fault("way out of a folder")
@pytest.mark.parametrize("name", ["../private/secret.png", "a/../../private/secret.png", "/{}"])
def test_a_list_of_captions_is_no_way_out(tmp_path: Path, secret: Path, name: str) -> None:
    folder = tree(tmp_path / "data")
    name = name.replace("/{}", str(secret / "secret.png"))
    for file, content in (
        (METADATA, json.dumps({"file_name": name, "text": "x"}) + "\n"),
        ("metadata.csv", f"file_name,text\n{name},x\n"),
    ):
        (folder / file).write_text(content)
        for follow in (False, True):
            with pytest.raises(InputError, match="lies outside of"):
                read_folder(folder, ("x",), follow_links=follow)
        (folder / file).unlink()
    (folder / METADATA).write_text(
        json.dumps({"file_name": str(folder / "a" / "0.png"), "text": "own"}) + "\n"
    )
    assert "own" in read_folder(folder, ("x",)).captions


@pytest.mark.fault("link in a loop")
def test_links_inside_a_folder_and_loops_are_no_way_out(tmp_path: Path) -> None:
    folder = tree(tmp_path / "data")
    before = list_pictures(folder).pictures
    (folder / "b" / "up").symlink_to("../a")
    (folder / "b" / "loop").symlink_to(".")
    (folder / "again").symlink_to(folder)
    for follow in (False, True):
        assert list_pictures(folder, follow_links=follow).pictures == before
    (tmp_path / "link").symlink_to(folder)
    assert len(read_folder(tmp_path / "link", ("x",)).paths) == 10
    (tmp_path / "self").symlink_to("self")
    assert not lies_inside(tmp_path / "self", folder)
    assert lies_inside(folder / "b" / "up" / "0.png", folder)
    assert not lies_inside(tmp_path / "data2", folder)


def test_a_folder_of_links_such_as_the_hubs_cache_can_be_asked_for(tmp_path: Path) -> None:
    """A snapshot in the hub's cache holds nothing but links to `../../blobs`."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    tree(blobs)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(blobs.rglob("*.png"))):
        (snapshot / f"{number}.png").symlink_to(file)
    with pytest.raises(InputError, match="leads out of"):
        read_folder(snapshot, ("x",))
    assert len(read_folder(snapshot, ("x",), follow_links=True).paths) == 10
