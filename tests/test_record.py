"""Atomic files, fingerprints and the run record."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from erase.errors import InputError
from erase.files import (
    append_jsonl,
    atomic_directory,
    fingerprint,
    hash_files,
    read_json,
    read_jsonl,
    write_bytes,
    write_json,
)
from erase.runs.record import RunRecord


def test_write_leaves_no_partial_file(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b.bin"
    write_bytes(target, b"one")
    write_bytes(target, b"two")
    assert target.read_bytes() == b"two"
    assert [path.name for path in target.parent.iterdir()] == ["b.bin"]


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"value": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_broken_json_names_the_file(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(InputError, match=r"broken\.json"):
        read_json(broken)
    with pytest.raises(InputError, match="does not exist"):
        read_json(tmp_path / "absent.json")


def test_jsonl_forgives_only_a_cut_last_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append_jsonl(path, {"step": 1})
    append_jsonl(path, {"step": 2})
    whole = path.read_text()
    path.write_text(whole + '{"st')
    assert read_jsonl(path) == [{"step": 1}, {"step": 2}]
    path.write_text(whole.rstrip("\n"))
    assert read_jsonl(path) == [{"step": 1}, {"step": 2}]
    path.write_text('{"st\n' + whole)
    with pytest.raises(InputError, match="line 1"):
        read_jsonl(path)


def test_atomic_directory_replaces_or_leaves(tmp_path: Path) -> None:
    target = tmp_path / "made"
    for content in ("old", "new"):
        with atomic_directory(target) as aside:
            (aside / "file").write_text(content)
    assert (target / "file").read_text() == "new"

    def fail() -> None:
        with atomic_directory(target) as aside:
            (aside / "file").write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail()
    assert (target / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_leftovers_of_a_killed_process_are_tidied_up(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    partial, old = (tmp_path / f".made.{kind}-{ended.pid}" for kind in ("partial", "old"))
    for folder in (partial, old):
        folder.mkdir()
        (folder / "file").write_text("before")

    def fail() -> None:
        with atomic_directory(tmp_path / "made"):
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail()
    # It had died between its two renames: the old folder is back, the half-written one gone.
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert (tmp_path / "made" / "file").read_text() == "before"


def test_fingerprint_ignores_order_and_sees_content(tmp_path: Path) -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("x")
    second.write_text("y")
    before = hash_files([first, second], tmp_path)
    assert hash_files([second, first], tmp_path) == before
    second.write_text("z")
    assert hash_files([first, second], tmp_path) != before


def test_run_record_life(tmp_path: Path) -> None:
    record = RunRecord(tmp_path, seed=3)
    path = tmp_path / "record.json"
    assert json.loads(path.read_text())["status"] == "running"
    record.fail("out of luck")
    failed = read_json(path)
    assert (failed["status"], failed["error"]) == ("failed", "out of luck")
    resumed = RunRecord(tmp_path, seed=3)
    resumed.finish()
    content = read_json(path)
    assert content["status"] == "finished"
    assert content["resumed"] == 1
    assert content["started"] == failed["started"]
    assert content["wall_time_s"] >= failed["wall_time_s"]
    assert content["versions"]["torch"]
    assert content["peak_memory_bytes"] > 0
    assert "error" not in content
