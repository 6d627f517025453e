"""What attacks find, kept in the folder of an attack on one model, prompt by prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor

from erase.files import read_json, write_bytes, write_json
from erase.runs.processes import Distributed
from erase.scoring.samples import Sample
from erase.tasks.attack import Found

FOUND = "found"


@dataclass(frozen=True)
class FolderStore:
    """A store in a folder that all processes see; what is there already is not computed again."""

    folder: Path
    distributed: Distributed

    def once(self, name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What `compute` returns: computed by the first process, kept, read by all."""
        file = self.folder / f"{name}.safetensors"
        if not self.distributed.on_main(file.is_file):
            self.distributed.on_main(lambda: _write(file, compute()))
        return load_file(file)

    def shared(self, name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The same for what need not be kept; one process alone writes nothing."""
        if self.distributed.count == 1:
            return compute()
        file = self.folder / f"{name}.safetensors"
        self.distributed.on_main(lambda: _write(file, compute()))
        tensors = self.distributed.on_all(lambda: load_file(file))
        self.distributed.on_main(lambda: file.unlink(missing_ok=True))
        return tensors

    def each(
        self,
        name: str,
        samples: Sequence[Sample],
        search: Callable[[Sequence[Sample]], Sequence[Found]],
        size: int,
    ) -> dict[str, Found]:
        """What `search` finds for each prompt, by sample id.

        Batches depend on the list of samples alone, so that the number of processes changes
        nothing; each process takes every N-th. A batch of which a prompt is lacking is searched
        whole.
        """
        folder = self.folder / FOUND
        files = {sample.id: folder / f"{name}-{sample.id}.json" for sample in samples}
        batches = [samples[start : start + size] for start in range(0, len(samples), size)]

        def search_share() -> None:
            for batch in batches[self.distributed.index :: self.distributed.count]:
                if not all(files[sample.id].is_file() for sample in batch):
                    for sample, found in zip(batch, search(batch), strict=True):
                        write_json(files[sample.id], dict(found))

        self.distributed.on_all(search_share)
        return {key: read_json(file) for key, file in files.items()}


def _write(file: Path, tensors: dict[str, Tensor]) -> None:
    write_bytes(file, save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}))
