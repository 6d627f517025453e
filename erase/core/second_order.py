"""Layers whose second derivative PyTorch makes of many small operations, in a few large ones.

`exact` differentiates the retain gradient once more. PyTorch differentiates the backward passes of
batch norm, group norm and GELU operation by operation, and that of a convolution by others with
large kernels. Inside `fast_second_order()` these four compute the same derivatives by formulas.
Only on a CPU, in float32 or float64; everything else is left alone. `benchmarks/meta_step.py` says
what that saves.

For the norms: x is the input, x^ = (x - mean) r the normalised one with r = 1 / sqrt(var + eps), M
the number of values that share a mean, P z = z - mean z - x^ mean(z x^), which is symmetric, and
h = weight * g. The first backward pass gives ``r P h``, ``sum g x^`` and ``sum g``. With u, a and b
the gradients of those, and sums over what shares a mean or a weight, the second gives

    for g:       weight r P u + a x^ + b
    for weight:  sum g r P u
    for x:       r P q - x^ r^2 <u, P h> / M,    q = a g - (r / M) (u <h, x^> + h <u, x^>)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

# PyTorch's functions here are not typed.
_native: Any = torch.ops.aten


class fast_second_order(TorchFunctionMode):  # noqa: N801
    """Inside, batch norm in training mode, group norm and GELU have fast second derivatives."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The replacement of a function, or the function itself."""
        replacement = _REPLACEMENTS.get(func)
        result = None if replacement is None else replacement(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {})) if result is None else result


def _plain(*tensors: Tensor | None) -> bool:
    """Whether all are on a CPU, in one dtype that is float32 or float64."""
    dtypes = {t.dtype for t in tensors if t is not None}
    return (
        len(dtypes) == 1
        and dtypes <= {torch.float32, torch.float64}
        and all(t is not None and t.device.type == "cpu" for t in tensors)
        and not torch.is_autocast_enabled("cpu")
    )


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    if not training:
        return None
    if x.ndim < 3 or not _plain(x, weight, bias):
        return _batch_norm_of_copies(x, running_mean, running_var, weight, bias, momentum, eps)
    running = (running_mean, running_var)
    result: Tensor = _BatchNorm.apply(x, weight, bias, running, momentum, eps)
    return result


def _batch_norm_of_copies(x: Tensor, mean: Any, var: Any, *others: Any) -> Tensor:
    """PyTorch's own; its graph stays whole when the statistics move on before it is used."""
    weight, bias, momentum, eps = others
    copies = [None if t is None else t.clone() for t in (mean, var)]
    result: Tensor = F.batch_norm(x, copies[0], copies[1], weight, bias, True, momentum, eps)
    for statistics, copy in zip((mean, var), copies, strict=True):
        if statistics is not None:
            statistics.copy_(copy)
    return result


def _group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor | None:
    if x.ndim < 3 or not _plain(x, weight, bias):
        return None
    result: Tensor = _GroupNorm.apply(x, weight, bias, num_groups, eps)
    return result


def _gelu(x: Tensor, *, approximate: str = "none") -> Tensor | None:
    if approximate != "none" or not _plain(x):
        return None
    result: Tensor = _Gelu.apply(x)
    return result


def _conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor | None:
    present = [t for t in (x, weight, bias) if t is not None]
    if x.ndim != 4 or isinstance(padding, str) or not _plain(*present):
        return None
    sizes = (_pair(stride), _pair(padding), _pair(dilation), False, [0, 0], groups)
    result: Tensor = _Conv.apply(x, weight, bias, sizes)
    return result


def _pair(size: int | Sequence[int]) -> list[int]:
    return [size, size] if isinstance(size, int) else [*size]


_REPLACEMENTS: dict[Callable[..., Any], Callable[..., Tensor | None]] = {
    F.batch_norm: _batch_norm,
    F.group_norm: _group_norm,
    F.gelu: _gelu,
    F.conv2d: _conv2d,
}


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, running: Any, rate: Any, eps: Any) -> Any:
        y, mean, r = _native.native_batch_norm(x, weight, bias, *running, True, rate, eps)
        ctx.save_for_backward(x, weight, mean, r)
        return y

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        x, weight, mean, r = ctx.saved_tensors
        return (*_BatchNormBackward.apply(g, x, weight, mean, r), None, None, None)


class _BatchNormBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Any, x: Any, weight: Any, mean: Any, r: Any) -> Any:
        result = _batch_norm_backward(g, x, weight, mean, r)
        ctx.save_for_backward(g, x, weight, mean, r, *result[1:])
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, u: Any, a: Any, b: Any) -> Any:
        g, x, weight, mean, r, g_x, g_1 = ctx.saved_tensors  # g_x: sum g x^; g_1: sum g
        count = x.numel() // len(mean)
        for_g, u_x, u_1 = _batch_norm_backward(u, x, weight, mean, r)
        zero, one = torch.zeros_like(mean), torch.ones_like(mean)
        _, u_g, _ = _batch_norm_backward(u, g, weight, zero, one, (False, True, False))
        inner = u_g - u_1 * g_1 / count - u_x * g_x / count  # <u, P g>
        of_u = -weight * r / count * g_x  # q = of_u u + of_g g
        of_g = a - weight * r / count * u_x
        of_x = (of_u * u_x + of_g * g_x) / count + r * weight * inner / count
        level = -r * (of_u * u_1 + of_g * g_1) / count
        scale = -of_x * r * r
        for_x = _scaled(x, scale, level - scale * mean)
        for_x += _scaled(u, r * of_u, zero)
        for_x += _scaled(g, r * of_g, zero)
        for_g += _scaled(x, a * r, b - a * r * mean)
        return for_g, for_x, r * inner, None, None


def _batch_norm_backward(
    g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, r: Tensor, mask: Any = (True, True, True)
) -> Any:
    return _native.native_batch_norm_backward(
        g, x, weight, None, None, mean, r, True, 0.0, list(mask)
    )


def _scaled(z: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`scale z + shift` for each channel: as a batch norm, the fastest kernel in any format."""
    zero, one = torch.zeros_like(scale), torch.ones_like(scale)
    result: Tensor = _native.native_batch_norm(z, scale, shift, zero, one, False, 0.0, 0.0)[0]
    return result


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, groups: Any, eps: Any) -> Any:
        size = (len(x), x.shape[1], x[0, 0].numel(), groups)
        y, mean, r = _native.native_group_norm(x, weight, bias, *size, eps)
        ctx.save_for_backward(x, weight, mean, r)
        ctx.size = size
        return y

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        applied = _GroupNormBackward.apply(g, *ctx.saved_tensors, ctx.size)
        return (*applied, None, None)


class _GroupNormBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Any, x: Any, weight: Any, mean: Any, r: Any, size: Any) -> Any:
        g = g.contiguous()
        all_three = [True, True, True]
        ctx.save_for_backward(g, x, weight, mean, r)
        ctx.size = size
        return _native.native_group_norm_backward(g, x, mean, r, weight, *size, all_three)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, u: Any, a: Any, b: Any) -> Any:
        g, x, weight, mean, r = ctx.saved_tensors
        samples, channels, _, groups = ctx.size
        count = x[0].numel() // groups

        def project(z: Tensor) -> Tensor:  # r P z
            only_x = [True, False, False]
            args = (z.contiguous(), x, mean, r, None, *ctx.size, only_x)
            result: Tensor = _native.native_group_norm_backward(*args)[0]
            return result.view(samples, channels, -1)

        def each(values: Tensor) -> Tensor:  # of a group [N, G] to its channels [N, C, 1]
            return values.repeat_interleave(channels // groups, 1).view(samples, channels, 1)

        def grouped(values: Tensor) -> Tensor:  # [N, C] to the sums over groups [N, G]
            return values.view(samples, groups, -1).sum(2)

        u3, g3, x3 = (z.reshape(samples, channels, -1) for z in (u, g, x))
        normalised = torch.addcmul(each(-mean * r), x3, each(r))
        moved = project(u)  # r P u
        moved_g = (moved * g3).sum(2)
        inner = grouped(moved_g * weight)  # r <u, P h>
        g_x = grouped((g3 * normalised).sum(2) * weight)  # <h, x^>
        u_x = grouped((u3 * normalised).sum(2))
        own = a[:, None] - each(r * u_x / count) * weight[:, None]
        q = (g3 * own).addcmul_(u3, each(-r * g_x / count))
        for_x = project(q.view_as(x)).addcmul_(normalised, each(-r * inner / count))
        for_g = moved.mul_(weight[:, None]).addcmul_(normalised, a[:, None]).add_(b[:, None])
        return for_g.view_as(x), for_x.view_as(x), moved_g.sum(0), None, None, None


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        # Its derivative is needed three times, and takes longer than a product.
        ctx.save_for_backward(x, _native.gelu_backward(torch.ones_like(x), x))
        return F.gelu(x)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return _GeluBackward.apply(g, *ctx.saved_tensors)


class _GeluBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Any, x: Any, slope: Any) -> Any:
        ctx.save_for_backward(g, x, slope)
        return g * slope

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, u: Any) -> Any:
        g, x, slope = ctx.saved_tensors
        square = x * x
        density = torch.add(_LOG_DENSITY.to(x.dtype), square, alpha=-0.5).exp_()
        for_x = torch.rsub(square, 2).mul_(density).mul_(g).mul_(u)  # gelu'' = (2 - x²) density
        return u * slope, for_x, None


_LOG_DENSITY = torch.tensor(-0.5 * math.log(2 * math.pi), dtype=torch.float64)
"""Logarithm of the normal density at 0."""


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, sizes: Any) -> Any:
        ctx.save_for_backward(x, weight)
        ctx.sizes, ctx.bias = sizes, bias is not None
        return _native.convolution(x, weight, bias, *sizes)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        wanted = (*ctx.needs_input_grad[:2], ctx.bias)
        applied = _ConvBackward.apply(g, *ctx.saved_tensors, ctx.sizes, wanted)
        return (*applied, None)


class _ConvBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Any, x: Any, weight: Any, sizes: Any, wanted: Any) -> Any:
        ctx.save_for_backward(g, x, weight)
        ctx.sizes = sizes
        ctx.set_materialize_grads(False)
        return _native.convolution_backward(g, x, weight, [len(weight)], *sizes, list(wanted))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, u: Any, v: Any, b: Any) -> Any:
        g, x, weight = ctx.saved_tensors

        def derivative(z: Tensor, kernel: Tensor, which: int) -> Tensor:
            mask = [which == 0, which == 1, False]
            args = (g, z, kernel, None, *ctx.sizes, mask)
            result: Tensor = _native.convolution_backward(*args)[which]
            return result

        for_g = for_x = for_weight = None
        if v is not None:
            for_g = _native.convolution(x, v, b, *ctx.sizes)
            for_x = derivative(x, v, 0) if ctx.needs_input_grad[1] else None
        if u is not None:
            more = _native.convolution(u, weight, None, *ctx.sizes)
            for_g = more if for_g is None else for_g.add_(more)
            for_weight = derivative(u, weight, 1) if ctx.needs_input_grad[2] else None
        if v is None and b is not None:
            level = b.view(-1, 1, 1).expand_as(g)
            for_g = level if for_g is None else for_g + level
        return for_g, for_x, for_weight, None, None
