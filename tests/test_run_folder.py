"""Who may write into a folder, who holds it, and what its record says of a failure."""

from pathlib import Path

import pytest

from erase.config.classifier import TrainConfig
from erase.errors import InputError, RunError
from erase.files import read_json, write_json
from erase.runs.folder import ComparisonFolder, ResultFolder, locked
from erase.runs.manifest import RECORD
from erase.runs.run_folder import RunFolder


def run_folder(
    path: Path, *, overwrite: bool = False, resume: str | None = None, seed: int = 0
) -> RunFolder:
    config = TrainConfig(seed=seed)
    return RunFolder(path, "training", config, overwrite=overwrite, resume=resume)


def left_in(path: Path) -> set[str]:
    return {item.name for item in path.iterdir()}


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A run's folder that was left in the middle of it, with a log and the user's own notes."""
    folder = tmp_path / "run"
    with run_folder(folder).hold(seed=0):
        (folder / "log.jsonl").write_text("{}\n")
        (folder / "notes.txt").write_text("mine")
    return folder


def test_a_new_folder_gets_config_and_record(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "new")
    assert not folder.check()
    assert not (tmp_path / "new").exists()
    with folder.hold(seed=3) as record:
        content = read_json(tmp_path / "new" / "record.json")
        assert (content["kind"], content["status"], content["seed"]) == ("training", "running", 3)
        assert record
        record.finish(steps=5)
    assert read_json(tmp_path / "new" / "record.json")["status"] == "finished"
    assert left_in(tmp_path / "new") == {".lock", "config.yaml", "record.json", "manifest.jsonl"}
    assert run_folder(tmp_path / "new", resume="latest").state().finished


@pytest.mark.parametrize("error", [RunError("no luck"), KeyboardInterrupt(), ZeroDivisionError()])
def test_whatever_ends_it_early_is_recorded(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), run_folder(tmp_path).hold():
        raise error
    content = read_json(tmp_path / "record.json")
    ended = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    assert content["status"] == ended
    assert content["error"] == (str(error) or type(error).__name__)
    with locked(tmp_path):  # the failed run holds the folder no longer
        assert not run_folder(tmp_path, resume="latest").state().finished


def test_a_folder_is_held_by_one(begun: Path) -> None:
    before = (begun / "record.json").read_bytes()
    refused = pytest.raises(InputError, match="Another process is writing into")
    with locked(begun), refused, run_folder(begun, overwrite=True).hold():
        pytest.fail("it was held twice")
    assert (begun / "record.json").read_bytes() == before
    assert (begun / "log.jsonl").exists()


def test_a_folder_is_looked_at_again_once_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may finish its run between the first look and the lock."""
    folder = run_folder(tmp_path)
    check, looks = folder.check, []

    def look() -> bool:
        looks.append(check())
        if len(looks) == 1:
            with run_folder(tmp_path).hold() as record:
                assert record
                record.finish()
        return looks[-1]

    monkeypatch.setattr(folder, "check", look)
    with pytest.raises(InputError, match="is not empty"), folder.hold():
        pytest.fail("the other run was replaced")
    assert read_json(tmp_path / "record.json")["status"] == "finished"


def test_a_run_is_resumed_or_replaced_only_when_asked(begun: Path) -> None:
    with pytest.raises(InputError, match="is not empty"):
        run_folder(begun).check()
    assert run_folder(begun, resume="latest").check()
    with pytest.raises(InputError, match="seed = 0, not 1"):
        run_folder(begun, resume="latest", seed=1).check()
    with run_folder(begun, resume="latest").hold():
        assert (begun / "log.jsonl").exists()
    assert not run_folder(begun, overwrite=True).check()
    with run_folder(begun, overwrite=True, seed=1).hold():
        assert left_in(begun) == {".lock", "config.yaml", "record.json", "notes.txt"}
    assert read_json(begun / "record.json")["resumed"] == 0


def test_a_run_killed_at_its_start_is_begun_anew(tmp_path: Path) -> None:
    """Between clearing and writing `config.yaml`, the record tells whose folder it is."""
    write_json(tmp_path / "record.json", {"kind": "training"})
    with pytest.raises(InputError, match="is not empty"):
        run_folder(tmp_path).check()
    assert not run_folder(tmp_path, resume="latest").check()
    with run_folder(tmp_path, resume="latest").hold():
        assert (tmp_path / "config.yaml").is_file()


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    for folder, said in (
        (run_folder(tmp_path), "is not empty"),
        (run_folder(tmp_path, overwrite=True), "is no erase run of this kind"),
        (run_folder(tmp_path, resume="latest"), "holds no training run to resume"),
        (ResultFolder(tmp_path, "other", overwrite=True), "holds something else"),
    ):
        with pytest.raises(InputError, match=said), folder.hold():
            pytest.fail("it was taken")
    assert left_in(tmp_path) == {"thesis.txt"}


def test_an_input_in_the_folder_is_not_deleted(begun: Path) -> None:
    folder = RunFolder(
        begun, "training", TrainConfig(), overwrite=True, resume=None, inputs=(begun / "data",)
    )
    with pytest.raises(InputError, match="which --overwrite would delete"):
        folder.check()


def test_a_comparison_goes_on_but_takes_no_other_result(begun: Path, tmp_path: Path) -> None:
    compared = tmp_path / "compared"
    for resumed in (0, 1):
        with ComparisonFolder(compared, "comparison", config=TrainConfig(seed=resumed)).hold():
            (compared / "trial-0").mkdir(exist_ok=True)
        assert read_json(compared / "record.json")["resumed"] == resumed
        assert (compared / "trial-0").is_dir()
    with pytest.raises(InputError, match="holds something else"):
        ComparisonFolder(begun, "comparison").check()


def test_what_killed_writes_left_is_neither_content_nor_kept(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for partial in (".record.json.partial-123", "images/.three.png.partial-7"):
        (tmp_path / partial).write_text("{")
    with locked(tmp_path):
        assert left_in(tmp_path) == {".lock", "images"}
        assert not left_in(tmp_path / "images")


@pytest.mark.parametrize("name", ["../victim", "/victim", "..", "a/../../victim", ""])
def test_an_index_that_names_other_places_deletes_nothing(begun: Path, name: str) -> None:
    victim = begun.parent / "victim"
    victim.mkdir()
    named = str(victim) if name == "/victim" else name
    write_json(begun / "model_index.json", {named: ["diffusers", "UNet2DModel"]})
    with pytest.raises(InputError, match="which is no folder in it"):
        run_folder(begun, overwrite=True).check()
    with pytest.raises(InputError), run_folder(begun, overwrite=True).hold():
        pass
    assert victim.is_dir()
    assert "log.jsonl" in left_in(begun)


def test_names_in_an_index_are_no_patterns_and_links_are_not_followed(begun: Path) -> None:
    mine = begun.parent / "mine"
    mine.mkdir()
    (begun / "unet").mkdir()
    (begun / "vae").symlink_to(mine)
    (begun / "data").symlink_to(mine)
    parts = {name: ["diffusers", "Part"] for name in ("*", "unet", "vae")}
    write_json(begun / "model_index.json", {**parts, "_class_name": "notes.txt", "notes.txt": 1})
    (mine / "image.png").write_text("")
    with run_folder(begun, overwrite=True).hold():
        pass
    assert left_in(begun) == {".lock", "config.yaml", "record.json", "notes.txt", "vae"}
    assert left_in(mine) == {"image.png"}


def test_checkpoints_without_a_config_are_not_cleared(begun: Path) -> None:
    (begun / "checkpoint-4").mkdir()
    (begun / "config.yaml").unlink()
    with pytest.raises(InputError, match=r"holds checkpoint-4 but no config\.yaml"):
        run_folder(begun, resume="latest").check()
    assert (begun / "checkpoint-4").is_dir()


@pytest.mark.fault("kill")
def test_a_start_that_was_killed_after_its_first_record_is_no_other_run(tmp_path: Path) -> None:
    folder = ResultFolder(tmp_path, "evaluation")
    folder.clear()
    assert [file.name for file in tmp_path.iterdir()] == [RECORD]
    assert folder.check() is False
    with pytest.raises(InputError, match="something else"):
        ResultFolder(tmp_path, "comparison").check()
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match="exists"):
        folder.check()
