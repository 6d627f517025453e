"""Hostile and wrong small files: every reader ends in one line that names the file, at once."""

import copy
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from erase.artifacts.models import missing_parts
from erase.artifacts.packaged import EMBEDDED
from erase.comparison.classifier_figures import cosines
from erase.comparison.search import Trials
from erase.comparison.store import Judged, cached
from erase.config.concept import ConceptConfig
from erase.config.resolve import resolve as resolve_config
from erase.data.concept_files import read_concept_files
from erase.data.forget import forget_indices
from erase.data.prompts import read_class_list
from erase.errors import InputError
from erase.files import read_json, read_jsonl
from erase.judges.digit_classifier import DIGITS_CLASSIFIER, DigitClassifier
from erase.models.base_card import front_matter
from erase.models.classifiers import Description, build, load_classifier, save_classifier
from erase.models.loading import resolve
from erase.models.sizes import check_size
from erase.models.weights import read_weights
from erase.reading import SMALL, YAML
from erase.render.render import claim, rendered
from erase.report.card import BEGIN, END, update_card
from erase.report.data import load_evaluation
from erase.report.evaluation import page
from erase.report.rows import tables
from erase.runs.checkpoint import load_checkpoint, save_checkpoint
from erase.runs.manifest import note_files
from erase.runs.run_folder import RunFolder
from erase.runs.unfinished import resume_command
from erase.runs.verify import verify
from erase.tasks.families import family_of
from erase.training.classifier_runs import Measured
from erase.training.loop import LogRow
from erase.training.sets import Selection
from tests.report_world import make

pytestmark = pytest.mark.fault("hostile small file")
DEEP = 20_000
OTHERS: tuple[Any, ...] = (None, [], {}, "x", -1, 0, 2.5, 10**30, True, [None], {"a": []})
CONFIG = "config.yaml"
TITLES = (
    *("evaluation record.json", "evaluation metrics.json", "samples.jsonl"),
    *("model model_index.json", "model unet/config.json", "model vae/config.json"),
    *("model text_encoder/config.json", "model scheduler/scheduler_config.json", "weight index"),
    *("run record.json", "run config.yaml", "--config", "manifest.jsonl", "state.json"),
    "log.jsonl",
    *("classifier model.json", "classifier metrics.json", "digit classifier model.json"),
    *("render.json", "kept.json", "README.md", "store", "search", "--forget indices:FILE"),
    *("a comparison's log", "concept file", "class list"),
)
YAML_FILES = ("run config.yaml", "--config", "concept file", "class list")
VALUES = tuple(title for title in TITLES if title != "README.md")
SLOW_MUTATIONS = tuple(title for title in TITLES if title.startswith("model "))
TEXTS: dict[str, bytes] = {
    "empty": b"",
    "a list": b"[]",
    "an empty object": b"{}",
    "null": b"null",
    "a number": b"3",
    "a word": b'"x"',
    "a list of lists": b"[[1], [2]]",
    "NaN": b'{"step": NaN}',
    "infinity": b'{"step": -Infinity, "wall_time_s": 1e999}',
    "5,000 digits": b'{"step": ' + b"9" * 5000 + b"}",
    "20,000 deep": b"[" * DEEP + b"]" * DEEP,
    "20,000 objects deep": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "900 deep": b'{"step": ' + b"[" * 900 + b"]" * 900 + b"}",
    "half a character": b'{"kind": "\\ud800"}',
    "not UTF-8": b'{"kind": "caf\xe9"}',
    "UTF-16": '{"kind": "x"}'.encode("utf-16"),
    "NUL": b'{"kind": "\x00"}',
    "cut short": b'{"kind": "conc',
    "other words": b"never gonna give you up\n",
    "binary": bytes(range(256)) * 4,
}
YAMLS: dict[str, bytes] = {
    "a list for a seed": b"seed: []\nname: {}\nclasses: 3\n",
    ".inf": b"seed: .inf\n",
    "5,000 digits": b"seed: " + b"9" * 5000 + b"\n",
    "a date": b"name: 2001-01-01\nseed: 2001-01-01\n",
    "an alias of itself": b"seed: &a [*a]\n",
    "a billion laughs": b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "20,000 deep": b"seed: " + b"[" * DEEP,
    "20,000 mappings deep": b"{a: " * DEEP,
    "a tag": b"seed: !!python/object/apply:os.system ['true']\n",
    "the same name twice": b"seed: 1\nseed: 2\n",
    "a list as a name": b"? [1]\n: 2\n",
    "a number as a name": b"1: 2\n",
    "two documents": b"seed: 1\n---\nseed: 2\n",
    "a tab": b"seed:\n\t- 1\n",
    "NUL": b"seed: \x00\n",
    "nothing": b"",
    "only a list": b"- 1\n",
    "not UTF-8": b"name: caf\xe9\n",
}


@dataclass(frozen=True)
class Reader:
    """Who reads a file: `folder` holds it and everything else that is read."""

    folder: Path
    name: str
    read: Callable[[Path], Any]
    rows: bool = False

    @property
    def file(self) -> Path:
        return self.folder / self.name


def _evaluation(folder: Path) -> None:
    data = load_evaluation(folder)
    page(data)
    tables(data)


def _model(folder: Path) -> None:
    source = resolve(str(folder))
    family = family_of(source)
    source.classes(), source.resolution(), source.latent_factor()
    source.check()
    family.stored_schedule(source)
    front_matter(folder)
    missing_parts(folder)
    family.skeleton(source)
    family.conditions(folder, 2)
    check_size(source, 64, "--resolution")


def _run_folder(folder: Path) -> RunFolder:
    config = ConceptConfig(model="mini-sd", concept=("three",))
    return RunFolder(folder, "concept", config, resume="latest", facts={"base": "x"})


def _run(folder: Path) -> None:
    _run_folder(folder).state()
    resume_command(folder)
    verify(folder)


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    """Every small file that the program reads, sound, with the code that reads it."""
    root = tmp_path_factory.mktemp("small")
    made: dict[str, Reader] = {}

    def add(title: str, folder: str, name: str, read: Callable[[Path], Any], **more: Any) -> None:
        made[title] = Reader(root / folder, name, read, **more)

    make(root / "evaluation", count=3, size=16, left=1)
    for name in ("record.json", "metrics.json"):
        add(f"evaluation {name}", "evaluation", name, _evaluation)
    add("samples.jsonl", "evaluation", "samples.jsonl", _evaluation, rows=True)

    shutil.copytree(EMBEDDED["mini-sd"], root / "model")
    configs = ("model_index.json", "unet/config.json", "vae/config.json")
    for name in (*configs, "text_encoder/config.json", "scheduler/scheduler_config.json"):
        add(f"model {name}", "model", name, _model)
    weight_map = {"a": "part.safetensors"}
    (root / "shards").mkdir()
    index = "diffusion_pytorch_model.safetensors.index.json"
    (root / "shards" / index).write_text(json.dumps({"weight_map": weight_map}))
    weights = "diffusion_pytorch_model.safetensors"
    shutil.copy(root / "model" / "vae" / weights, root / "shards" / "part.safetensors")
    add("weight index", "shards", index, read_weights)

    run = root / "run"
    run.mkdir()
    _run_folder(run).config.write(run / "config.yaml")
    record = {"kind": "concept", "status": "running", "facts": {"base": "x"}, "resumed": 0}
    (run / "record.json").write_text(json.dumps(record))
    add("run record.json", "run", "record.json", _run)
    add("run config.yaml", "run", "config.yaml", _run)
    add("--config", "run", "config.yaml", lambda f: resolve_config(ConceptConfig, {}, f / CONFIG))
    identity = _run_folder(run).identity()
    save_checkpoint(run, 2, {"a": torch.zeros(1)}, {}, keep=0, run=identity)
    note_files(run, "record.json", "config.yaml")
    add("manifest.jsonl", "run", "manifest.jsonl", _run, rows=True)
    add("state.json", "run/checkpoint-2", "state.json", load_checkpoint)
    (run / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    add("log.jsonl", "run", "log.jsonl", lambda f: read_jsonl(f / "log.jsonl", LogRow), rows=True)

    description = Description("cnn", ("a", "b"), 8, (0.5,) * 3, (0.5,) * 3, "digits")
    save_classifier(root / "classifier", build(description), description)
    add("classifier model.json", "classifier", "model.json", load_classifier)
    scores = {**dict.fromkeys(("ua", "ra", "ta", "mia"), 50.0)}
    counts = dict.fromkeys(("n_forget", "n_retain", "n_test"), 3)
    (root / "classifier" / "metrics.json").write_text(json.dumps({"scores": {**scores, **counts}}))
    read = lambda f: read_json(f / "metrics.json", Measured)  # noqa: E731
    add("classifier metrics.json", "classifier", "metrics.json", read)
    shutil.copytree(DIGITS_CLASSIFIER, root / "digits")
    add("digit classifier model.json", "digits", "model.json", DigitClassifier.load)

    def write(folder: str, name: str, content: Any) -> None:
        (root / folder).mkdir(exist_ok=True)
        (root / folder / name).write_text(json.dumps(content))

    write("images", "render.json", {"fingerprint": "x"})
    add("render.json", "images", "render.json", _images)
    write("sets", "kept.json", {"fingerprint": "x", "kept": [1, 2], "rendered": 3})
    add("kept.json", "sets", "kept.json", lambda f: read_json(f / "kept.json", Selection))
    (root / "card").mkdir()
    (root / "card" / "README.md").write_text(f"---\nlicense: mit\n---\n{BEGIN}\n{END}\n")
    add("README.md", "card", "README.md", _card)
    write("store", "lur.json", {"fingerprint": "x", "scores": {"ua": 1.0}})
    make_nothing: Callable[[], Any] = lambda: {"scores": {}}  # noqa: E731
    add("store", "store", "lur.json", lambda f: cached(f / "lur.json", "x", make_nothing, Judged))
    trial = {"fingerprint": "x", "settings": {"alpha": 0.1}, "gap": 1.0, "state": "moved"}
    write("search", "lur.json", {"trials": [trial], "budget": 3})
    add("search", "search", "lur.json", lambda f: read_json(f / "lur.json", Trials))
    write("forget", "forget.json", {"indices": [1, 2]})
    add("--forget indices:FILE", "forget", "forget.json", _forget)
    (root / "figures" / "trial-0").mkdir(parents=True)
    (root / "figures" / "trial-0" / "lur.jsonl").write_text('{"step": 1, "cosine": 0.5}\n')
    add("a comparison's log", "figures", "trial-0/lur.jsonl", _cosines, rows=True)

    concepts = root / "prompts" / "concepts"
    concepts.mkdir(parents=True)
    concept = {"name": "cat", "forget": {"a cat": "a dog"}, "retain": ["a dog"], "aliases": ["c"]}
    concept |= {"recipe": {"learning_rate": 0.1}, "nudenet": {"labels": ["X"], "threshold": 0.5}}
    (concepts / "cat.yaml").write_text(yaml.safe_dump(concept))
    add("concept file", "prompts", "concepts/cat.yaml", read_concept_files)
    templates = {name: ["a {name}"] for name in ("forget", "retain", "evaluate")}
    classes = {"classes": [{"name": "cat"}], "templates": templates}
    (root / "prompts" / "list.yaml").write_text(yaml.safe_dump(classes))
    add("class list", "prompts", "list.yaml", lambda f: read_class_list(f / "list.yaml"))
    assert tuple(made) == TITLES
    return made


def _card(folder: Path) -> None:
    front_matter(folder)
    update_card(folder, {"metrics": {"ua": {"value": 1.0}}}, folder)


def _images(folder: Path) -> None:
    rendered(folder, [], "x")
    claim(folder, "x")


def _forget(folder: Path) -> None:
    labels = torch.arange(4)
    spec = f"indices:{folder / 'forget.json'}"
    forget_indices(spec, labels, list("abcd"), trained_on=torch.arange(4), seed=0)


def _cosines(folder: Path) -> None:
    cosines(folder, ["lur"], 1)


def attempt(reader: Reader) -> str | None:
    """What a reader says of its file as it is now; None where it took it."""
    try:
        reader.read(reader.folder)
    except InputError as error:
        return error.message
    return None


def mutations(content: Any, depth: int = 3) -> Iterator[Any]:
    """Copies of JSON content with one value exchanged for another kind, or left out."""
    if depth == 0 or not isinstance(content, dict | list) or not content:
        return
    keys = list(content) if isinstance(content, dict) else range(min(len(content), 1))
    for key in keys:
        for value in OTHERS:
            changed = copy.copy(content)
            changed[key] = value
            yield changed
        if isinstance(content, dict):
            yield {name: value for name, value in content.items() if name != key}
        for inner in mutations(content[key], depth - 1):
            changed = copy.copy(content)
            changed[key] = inner
            yield changed


def changed(reader: Reader, step: int = 1) -> Iterator[bytes]:
    """The file's content with each value exchanged for others in turn; each `step`-th of these."""
    sound = reader.file.read_bytes()
    first, _, rest = sound.partition(b"\n") if reader.rows else (sound, b"", b"")
    is_yaml = reader.name.endswith(".yaml")
    content = yaml.safe_load(sound) if is_yaml else json.loads(first)
    for item in itertools.islice(mutations(content), 0, None, step):
        written = yaml.safe_dump(item) if is_yaml else json.dumps(item)
        yield written.encode() + (b"\n" + rest if reader.rows else b"")


def check(reader: Reader, contents: Iterator[bytes] | list[bytes]) -> list[str | None]:
    """What the reader says of each content; the file is sound again afterwards."""
    sound, said = reader.file.read_bytes(), []
    try:
        for content in contents:
            reader.file.write_bytes(content)
            said.append(attempt(reader))
    finally:
        reader.file.write_bytes(sound)
    return said


@pytest.mark.parametrize("title", TITLES)
def test_a_sound_file_is_taken(title: str, readers: dict[str, Reader]) -> None:
    assert attempt(readers[title]) is None


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("title", "text"),
    [(title, text) for title in TITLES for text in (YAMLS if title in YAML_FILES else TEXTS)],
)
def test_a_hostile_file_is_named(title: str, text: str, readers: dict[str, Reader]) -> None:
    reader = readers[title]
    (said,) = check(reader, [(YAMLS if title in YAML_FILES else TEXTS)[text]])
    assert said is None or reader.file.name in said or str(reader.folder) in said, said
    assert "\n" not in (said or "")
    assert len(said or "") < 400


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "loop", "too large"])
@pytest.mark.parametrize("title", TITLES)
def test_what_is_no_file_is_refused_at_once(
    title: str, kind: str, readers: dict[str, Reader]
) -> None:
    reader = readers[title]
    sound = reader.file.read_bytes()
    reader.file.unlink()
    try:
        if kind == "folder":
            reader.file.mkdir()
        elif kind == "pipe":
            os.mkfifo(reader.file)
        elif kind == "device":
            reader.file.symlink_to("/dev/zero")
        elif kind == "loop":
            reader.file.symlink_to(reader.file.name)
        else:
            most = YAML if title in YAML_FILES else SMALL
            with reader.file.open("wb") as file:
                file.truncate(most + 1)  # without blocks on disk
        said = attempt(reader)
    finally:
        if reader.file.is_dir() and not reader.file.is_symlink():
            reader.file.rmdir()
        else:
            reader.file.unlink()
        reader.file.write_bytes(sound)
    assert said is None or str(reader.folder) in said


@pytest.mark.parametrize("title", [title for title in VALUES if title not in SLOW_MUTATIONS])
def test_values_of_other_kinds_are_refused_or_taken(title: str, readers: dict[str, Reader]) -> None:
    steps = {"evaluation record.json": 15, "evaluation metrics.json": 40, "samples.jsonl": 10}
    step = 30 if title in YAML_FILES else steps.get(title, 4)
    check(readers[title], changed(readers[title], step))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("title", VALUES)
def test_all_values_of_other_kinds(title: str, readers: dict[str, Reader]) -> None:
    step = 4 if title in SLOW_MUTATIONS else 1
    check(readers[title], changed(readers[title], step))
