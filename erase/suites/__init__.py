"""Suites: one file each, found by its name; what is asked of a model, never what it answers.

A suite is a module whose docstring's first line describes it in one sentence, and that holds

* `VERSION: int`: raised whenever the same settings would give other numbers;
* `CLASSIFIER: str | None`: name of the classifier that judges its images
  (`erase.evaluation.judges`), which also has the real images that distances refer to;
* `protocols() -> dict[str, Protocol]`: its named settings, `default` among them;
* `classes(prompts: Path) -> tuple[str, ...]`: the names that samples' targets may take, in the
  order of the classifier's outputs; empty for a suite without classes;
* `samples(protocol: Protocol, prompts: Path) -> list[Sample]`: what to render, in order. The
  seeds depend on the protocol alone, so that every model starts from the same noise.

`prompts` is the root of the prompt files. A suite imports neither another suite nor a metric.
"""
