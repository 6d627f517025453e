"""The header of a weights file: its architecture, what was erased, and from which base model.

The `modelspec.` keys follow the ModelSpec metadata standard that A1111, ComfyUI and their model
managers show; the `erase.` keys are this project's own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import erase

ARCHITECTURES = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2",
    "sdxl": "stable-diffusion-xl-v1-base",
}


def provenance(
    *,
    erased: Sequence[str],
    method: str,
    base: str,
    revision: str | None,
    fingerprint: str | None,
) -> dict[str, str]:
    """The `erase.` keys. A safetensors header holds text only, so unknown values are left out.

    Args:
        erased: names of what was erased.
        method: the unlearning method.
        base: the base model as the user named it.
        revision: its hub commit.
        fingerprint: its `ModelSource.fingerprint()`.
    """
    values = {
        "erase.erased": ", ".join(erased),
        "erase.method": method,
        "erase.base": base,
        "erase.base_revision": revision,
        "erase.base_fingerprint": fingerprint,
        "erase.version": erase.__version__,
    }
    return {name: value for name, value in values.items() if value}


def modelspec(
    family: str, record: Mapping[str, Any], *, kind: str = "", resolution: int, prediction: str
) -> dict[str, str]:
    """The header of an exported file.

    Args:
        family: a key of `ARCHITECTURES`.
        record: `record.json` of the run.
        kind: `lora`, `diff`, or empty for a whole model.
        resolution: pixels a side of the model's images.
        prediction: the scheduler's prediction type.
    """
    erased = list((record.get("target") or {}).get("concepts") or ())
    base = str(record.get("base_model"))
    name = base.rstrip("/").rpartition("/")[2]
    method = str(record.get("method"))
    target = ", ".join(erased) or "its target"
    return {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": ARCHITECTURES[family] + (f"/{kind}" if kind else ""),
        "modelspec.implementation": "diffusers" if kind else "sgm",
        "modelspec.title": f"{name} without {target}" + (f" ({kind})" if kind else ""),
        "modelspec.description": f"{name} after unlearning {target} with the method {method} of"
        " erase. The licence of the base model remains in force.",
        "modelspec.date": str(record.get("finished") or record.get("started")),
        "modelspec.resolution": f"{resolution}x{resolution}",
        "modelspec.prediction_type": {"v_prediction": "v"}.get(prediction, prediction),
        **provenance(
            erased=erased,
            method=method,
            base=base,
            revision=record.get("base_revision"),
            fingerprint=record.get("base_fingerprint"),
        ),
    }
