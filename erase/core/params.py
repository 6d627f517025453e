"""Choosing, copying and restoring parameters, and losses that can be evaluated again and again.

The meta step needs `FixedLoss`: it evaluates the same loss two or three times in a step, at
different parameters, and a second dropout mask would spoil the curvature that it measures.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from erase.errors import InputError

TRAINABLE = ("full", "xattn", "noxattn", "selfattn")
"""The named choices of `select_parameters`; anything else is a regular expression."""
OUTER = ("conv_norm_out", "conv_out", "time_embedding")
"""The output layer and the timestep's embedding (`out.` and `time_embed` in CompVis' names)."""


def select_parameters(module: nn.Module, spec: str) -> dict[str, nn.Parameter]:
    """Choose the parameters to train; the others are frozen (`requires_grad` is set on all).

    Args:
        module: the model, on any device.
        spec: ``full``; ``xattn`` (only cross-attention, which diffusers calls ``attn2``);
            ``selfattn`` (only self-attention, ``attn1``); ``noxattn`` (all but cross-attention, the
            embedding of the timestep and the output layer, as in the public code of ESD, SA, SHs
            and EraseDiff); or a regular expression searched for in the full parameter name.

    Returns:
        Name to parameter, in the order of `module.named_parameters()`; a parameter shared by
        several layers appears once.

    Raises:
        InputError: the expression is not valid, or nothing matches. Nothing has been changed then.
    """
    chosen = name_matcher(spec)
    selected = {name: p for name, p in module.named_parameters() if chosen(name)}
    if not selected:
        example = next((name for name, _ in module.named_parameters()), "(it has none)")
        raise InputError(
            f"'{spec}' matches no parameter of this model.",
            f"Use one of {', '.join(TRAINABLE)}, or a regular expression that matches names "
            f"such as '{example}'.",
        )
    for name, p in module.named_parameters():
        p.requires_grad_(name in selected)
    return selected


def as_list(params: Iterable[Tensor] | Mapping[str, Tensor]) -> list[Tensor]:
    """The parameters themselves, from a list, a generator, or what `select_parameters` returns."""
    return list(params.values()) if isinstance(params, Mapping) else list(params)


def snapshot(params: Iterable[Tensor] | Mapping[str, Tensor]) -> list[Tensor]:
    """Copy the values, detached, in order; needs as much memory as the parameters."""
    return [p.detach().clone() for p in as_list(params)]


@torch.no_grad()
def restore(params: Iterable[Tensor] | Mapping[str, Tensor], saved: Sequence[Tensor]) -> None:
    """Put the values of `snapshot` back, bit for bit, in place.

    Values are copied, because adding a step back leaves about 1% of float32 values inexact.

    Raises:
        InputError: the number of tensors or a shape differs; nothing has been changed then.
    """
    live = as_list(params)
    if [p.shape for p in live] != [s.shape for s in saved]:
        raise InputError(
            f"the snapshot of {len(saved)} tensors does not fit these {len(live)} parameters",
            "Restore the very parameters that the snapshot was taken of.",
        )
    torch._foreach_copy_(live, list(saved))


@contextmanager
def still_buffers(module: nn.Module) -> Iterator[None]:
    """Inside, no BatchNorm layer in training mode updates its running statistics.

    The outputs and gradients stay those of training mode (statistics of the batch).
    `momentum = 0` is not enough: it still counts batches. Layers in evaluation mode are left alone.
    A forward pass that is repeated later, by gradient checkpointing, is not covered.
    """
    layers = [
        m
        for m in module.modules()
        if isinstance(m, _BatchNorm) and m.training and m.track_running_stats
    ]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


class FixedLoss:
    """A loss that depends on the parameters only: two calls agree bit for bit.

    Every call starts from the same random state (CPU, and the CUDA device that holds the module),
    so dropout masks repeat; the global random state does not change. Batch, noise and
    timesteps must be fixed by `loss_fn` itself, or drawn inside it from the global generators.
    Python's and NumPy's generators are not touched.

    Args:
        module: the model that `loss_fn` runs.
        loss_fn: computes the loss, a 0-dim tensor, from the module's live parameters.
        seed: of the random state, a whole number in ``[0, 2**63)``; derive it from run seed and
            step.
        moves_buffers: whether BatchNorm statistics follow the FIRST call, as in one ordinary
            training step; later calls never move them.

    Raises:
        InputError: the seed is out of range.
    """

    def __init__(
        self,
        module: nn.Module,
        loss_fn: Callable[[], Tensor],
        seed: int,
        *,
        moves_buffers: bool = True,
    ) -> None:
        """Take what is fixed; nothing is computed yet."""
        if not 0 <= seed < 2**63:
            raise InputError(f"seed {seed} is out of range", "Use a whole number in [0, 2**63).")
        self._module = module
        self._loss_fn = loss_fn
        self._seed = seed
        self._may_move = moves_buffers
        device = next((p.device for p in module.parameters()), torch.device("cpu"))
        self._cuda = device if device.type == "cuda" else None

    def __call__(self) -> Tensor:
        """Evaluate the loss at the parameters as they are now."""
        buffers = nullcontext() if self._may_move else still_buffers(self._module)
        self._may_move = False
        devices = [] if self._cuda is None else [self._cuda]
        with torch.random.fork_rng(devices), buffers:
            # torch.manual_seed would also reset the devices that other models live on.
            torch.default_generator.manual_seed(self._seed)
            if self._cuda is not None:
                with torch.cuda.device(self._cuda):
                    torch.cuda.manual_seed(self._seed)
            return self._loss_fn()


def name_matcher(spec: str) -> Callable[[str], bool]:
    """Whether a parameter name belongs to a choice of `select_parameters`; InputError as there."""
    # Whole path components: "attn2" must not be found inside a name such as "my_attn20".
    if spec == "full":
        return lambda _: True
    if spec == "xattn":
        return lambda name: "attn2" in name.split(".")
    if spec == "noxattn":
        return lambda name: not {"attn2", *OUTER} & set(name.split("."))
    if spec == "selfattn":
        return lambda name: "attn1" in name.split(".")
    try:
        pattern = re.compile(spec)
    except re.error as error:
        raise InputError(
            f"'{spec}' is not a valid regular expression: {error}",
            f"Use one of {', '.join(TRAINABLE)}, or a Python regular expression.",
        ) from error
    return lambda name: pattern.search(name) is not None
