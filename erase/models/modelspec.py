"""The header of a weights file: its architecture, what was erased, and from which base model.

The `modelspec.` keys follow the ModelSpec metadata standard that A1111, ComfyUI and their model
managers show; the `ss_` keys are those that kohya's scripts write and A1111 sorts adapters by; the
`erase.` keys are this project's own. None of them holds a path.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

import erase
from erase.runs.requests import forgotten, original, requests

ARCHITECTURES = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2-512",
    "sd2-v": "stable-diffusion-v2-768-v",
    "sdxl": "stable-diffusion-xl-v1-base",
}
ARCHITECTURE_ENDS = {"vae": "/vae", "lora": "/lora", "diff": "/lora"}
"""By kind of file. Clients load LyCORIS' differences as they load a LoRA."""
KOHYA_VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2", "sd2-v": "sd_v2_v", "sdxl": "sdxl_base_v1-0"}
V_PREDICTION = "v_prediction"
PREDICTIONS = {"epsilon": "epsilon", V_PREDICTION: "v"}
"""ModelSpec's words for what a model predicts, by diffusers' words."""


def public_name(name: str) -> str:
    """A model's name for files that people pass on: of a path only the last part.

    Args:
        name: an alias, a hub id, or the whole path of a folder or file.
    """
    path = Path(name)
    return path.name or "a local model" if path.is_absolute() else name


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
        base: the base model, as in the record: an alias, a hub id or a whole path.
        revision: its hub commit.
        fingerprint: its `ModelSource.fingerprint()`.
    """
    values = {
        "erase.erased": ", ".join(erased),
        "erase.method": method,
        "erase.base": public_name(base),
        "erase.base_revision": revision,
        "erase.base_fingerprint": fingerprint,
        "erase.version": erase.__version__,
    }
    return {name: value for name, value in values.items() if value}


def modelspec(
    family: str,
    record: Mapping[str, Any],
    *,
    kind: str = "",
    resolution: int,
    prediction: str,
    licence: Mapping[str, str],
) -> dict[str, str]:
    """The header of an exported file, without its hash.

    Args:
        family: `sd1`, `sd2` or `sdxl`.
        record: `record.json` of the run.
        kind: `unet`, `vae`, `lora`, `diff`, or empty for a whole model.
        resolution: pixels a side of the model's images.
        prediction: the scheduler's prediction type, a key of `PREDICTIONS`.
        licence: of the base model, as `licence_header` returns it.
    """
    adds = kind in ("lora", "diff")
    erased = list((record.get("target") or {}).get("concepts") or ())
    base, revision, fingerprint = (
        record.get(f"base_{part}") for part in ("model", "revision", "fingerprint")
    )
    methods = [record.get("method")]
    if not adds and record.get("forgotten_before"):  # a whole model holds all of the chain
        erased = [item.name for item in forgotten(record)]
        methods = [request.get("method") for request in requests(record)]
        first = original(record) or {}
        base, revision, fingerprint = map(first.get, ("model", "revision", "fingerprint"))
    base = str(base)
    name = public_name(base).rpartition("/")[2]
    method = ", ".join(dict.fromkeys(map(str, methods)))
    target = ", ".join(erased) or "its target"
    # SD 1.x's and 2.x's adapters are in diffusers' names, all else in the original ones.
    implementation = "diffusers" if adds and family != "sdxl" else "sgm"
    return {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": ARCHITECTURES[_variant(family, prediction)]
        + ARCHITECTURE_ENDS.get(kind, ""),
        "modelspec.implementation": implementation,
        "modelspec.title": f"{name} without {target}" + (f" ({kind})" if kind else ""),
        "modelspec.description": f"{name} after unlearning {target} with the method {method} of"
        " erase. The licence of the base model remains in force.",
        "modelspec.date": str(record.get("finished") or record.get("started")),
        "modelspec.resolution": f"{resolution}x{resolution}",
        "modelspec.prediction_type": PREDICTIONS[prediction],
        **provenance(
            erased=erased,
            method=method,
            base=base,
            revision=revision,
            fingerprint=fingerprint,
        ),
        **licence,
    }


def kohya(family: str, prediction: str, base: str, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The `ss_` keys of an adapter or a difference. A1111 hides files of another version.

    Args:
        family: `sd1`, `sd2` or `sdxl`.
        prediction: the scheduler's prediction type.
        base: the base model, as in the record.
        tensors: of the file, in kohya's or LyCORIS' names.
    """
    header = {
        "ss_base_model_version": KOHYA_VERSIONS[_variant(family, prediction)],
        "ss_v2": str(family == "sd2"),
        "ss_sd_model_name": public_name(base),
    }
    downs = [t for name, t in tensors.items() if name.endswith("lora_down.weight")]
    if not downs:
        arguments = {"algo": "full", "train_norm": "True"}
        return header | {
            "ss_network_module": "lycoris.kohya",
            "ss_network_args": json.dumps(arguments),
        }
    rank = str(max(map(len, downs)))
    convolutions = [len(t) for t in downs if t.ndim == 4 and t.shape[2:] != (1, 1)]
    conv_rank = str(max(convolutions, default=0))
    arguments = {"conv_dim": conv_rank, "conv_alpha": conv_rank} if convolutions else {}
    return header | {
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": rank,
        "ss_network_args": json.dumps(arguments),
    }


def _variant(family: str, prediction: str) -> str:
    return f"{family}-v" if family == "sd2" and prediction == V_PREDICTION else family
