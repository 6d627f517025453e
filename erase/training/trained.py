"""Which parameters a diffusion run trains: a choice of the model's own, or low-rank adapters."""

from torch.nn import Module, Parameter

from erase.config.concept import ConceptConfig
from erase.core.params import select_parameters
from erase.core.rng import derive_seed
from erase.errors import InputError
from erase.models.lora import add_lora, lora_targets

NO_ADAPTERS = {
    "uce": "edits the weights themselves",
    "shs": "re-initialises some of the weights",
    "retrain": "starts from fresh weights",
}
"""Methods that do more to the weights than training them, and so have nothing to do to adapters."""


def check_trained(model: Module, config: ConceptConfig) -> None:
    """Raise InputError when nothing would be trained; `model` may be on the `meta` device."""
    if config.lora_rank is None:
        if config.lora_alpha is not None:
            raise InputError("--lora-alpha is given without --lora-rank.", "Give --lora-rank too.")
        select_parameters(model, config.trainable or "full")
        return
    if config.method in NO_ADAPTERS:
        raise InputError(
            f"{config.method} {NO_ADAPTERS[config.method]}, so --lora-rank does not apply.",
            "Leave it out; erase export --format lora takes an adapter from the result.",
        )
    lora_targets(model, config.trainable or "full", config.lora_rank)


def trained_parameters(model: Module, config: ConceptConfig) -> dict[str, Parameter]:
    """The parameters that the run trains, by name; all others are frozen.

    With `--lora-rank` adapters are put on the model, in place, and only they are trained.
    InputError when nothing is chosen.
    """
    if config.lora_rank is None:
        return select_parameters(model, config.trainable or "full")
    return add_lora(
        model,
        config.trainable or "full",
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        seed=derive_seed(config.seed, "lora"),
    )
