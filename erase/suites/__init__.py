"""Suites: one file each, found by its name; what is asked of a model, never what it answers.

A suite is a module whose docstring's first line describes it in one sentence, and that holds

* `VERSION: int`: raised whenever the same settings would give other numbers;
* `protocols() -> dict[str, Protocol]`: its named settings, `default` among them, each with its
  source; a protocol also names the classifier that judges the images
  (`erase.evaluation.classifiers`);
* `SETTINGS: Mapping[str, Any]`: what a protocol may tell the suite under the suite's own name, with
  the defaults, as for a metric; absent when there is nothing;
* `classes(prompts: Path) -> tuple[str, ...]`: the names that samples' targets may take; empty for
  a suite without classes;
* `aliases(prompts: Path) -> Mapping[str, str]`: other names of the classes, as folders of real
  images carry them; absent when there are none;
* `samples(protocol: Protocol, prompts: Path) -> list[Sample]`: what to render, in order. The
  seeds depend on protocol and prompts alone, so that every model starts from the same noise;
* `unusable(protocol: Protocol, prompts: Path) -> list[Unusable]`: rows of a prompt table that had
  to be left out; absent for suites without a table;
* `HUB: tuple[str, str]`: hub data set and file its prompts come from when no file is given; absent
  when there is none;
* `DATASETS: tuple[str, ...]`: public data sets (`erase.artifacts.datasets`) that `erase fetch
  --suite` brings; absent when there are none.

`prompts` is the root of the prompt files, or a CSV table that the user gave (`erase.data.
prompt_table`). A suite imports neither another suite nor a metric.
"""
