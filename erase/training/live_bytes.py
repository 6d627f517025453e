"""Peak memory of a computation that is not carried out: fake tensors, real bookkeeping.

`simulate` runs code on tensors that have shapes but no content (PyTorch's FakeTensorMode) and adds
up the storages that are alive at each operation. A run executes the same code, so its activations,
gradients, copies and optimizer states are all counted. It costs no memory, and only the time of the
Python code.

Memory that belongs to no tensor is not counted: buffers inside a kernel (convolution workspaces),
and memory that the allocator holds.
"""

import gc
import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PIECE = 32 * 2**20
"""Bytes. glibc maps larger blocks apart from its heap and returns them when they are freed."""
SCALARS = {torch.bool: True, torch.float32: 1.0, torch.float64: 1.0}

IN_PLACE = frozenset(
    getattr(operation, overload)
    for operation in (
        *(torch.ops.aten.add_, torch.ops.aten.sub_, torch.ops.aten.mul_, torch.ops.aten.div_),
        *(torch.ops.aten.addcdiv_, torch.ops.aten.addcmul_, torch.ops.aten.lerp_),
        *(torch.ops.aten.copy_, torch.ops.aten.fill_, torch.ops.aten.zero_),
        *(torch.ops.aten.normal_, torch.ops.aten.uniform_),
    )
    for overload in operation.overloads()
)
"""Operations that make no tensor, and leave the shape of the one that they change."""


class LiveBytes(TorchDispatchMode):
    """Inside, `live` is the sum of all storages that operations made and that are still held.

    `peak` is the most it was; set it to `live` to begin anew. `pieces` and `pieces_peak` are the
    same for storages of `PIECE` bytes at the most. `churn` is the most that these took in a piece
    of work (`peak_of`) beyond what was held before it. Values that are read from fake tensors
    (`item`) are 1: code that only checks them goes on.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self.pieces = 0
        self.pieces_peak = 0
        self.churn = 0
        self._held: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operation and count its results."""
        if func is torch.ops.aten._local_scalar_dense.default:
            return SCALARS.get(args[0].dtype, 1)
        if args and isinstance(args[0], FakeTensor):  # what needs no simulation: most calls
            if func is torch.ops.prim.device.default:
                return args[0].fake_device
            if func in IN_PLACE:
                return args[0]
        result = func(*args, **(kwargs or {}))
        for leaf in (result,) if isinstance(result, Tensor) else tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._held:
            return
        size = storage.nbytes()
        piece = size if size <= PIECE else 0

        def release(_: Any) -> None:
            if self._held.pop(key, None) is not None:
                self.live -= size
                self.pieces -= piece

        self._held[key] = weakref.ref(storage, release)
        self.live += size
        self.peak = max(self.peak, self.live)
        self.pieces += piece
        self.pieces_peak = max(self.pieces_peak, self.pieces)


@contextmanager
def simulate(*, real: bool = False) -> Iterator[LiveBytes]:
    """Inside, new tensors are fake and counted; real tensors may be read.

    With `real` they are not fake: the operations are carried out, on whatever the memory holds, and
    counted alike. For a small model that takes a quarter of the time of its simulation.
    """
    if real:
        with LiveBytes() as counted:
            yield counted
        return
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        LiveBytes() as counted,
        patch.object(FakeTensor, "__deepcopy__", _copied),
    ):
        yield counted


def _copied(self: Tensor, memo: dict[int, Any]) -> Tensor:
    """`copy.deepcopy` of a fake tensor: a copy of the tensor alone.

    PyTorch's own version also copies the tensor's mode; tensors made after that corrupt the heap
    (2.15).
    """
    if id(self) not in memo:
        copy = self.detach().clone()
        if isinstance(self, Parameter):
            copy = Parameter(copy, self.requires_grad)
        memo[id(self)] = copy.requires_grad_(self.requires_grad)
    return memo[id(self)]  # type: ignore[no-any-return]


def peak_of(counted: LiveBytes, work: Callable[[], object]) -> int:
    """The most bytes alive at once while `work` runs, those before it included.

    What only circular references hold is dropped first: when Python would do it is chance.
    """
    gc.collect()
    counted.peak = counted.live
    counted.pieces_peak = before = counted.pieces
    work()
    counted.churn = max(counted.churn, counted.pieces_peak - before)
    return counted.peak


class EightBitAdam(Optimizer):
    """As much memory as bitsandbytes' 8-bit AdamW takes, which has no step for simulated tensors.

    Two states of a byte each; their scales are 4 bytes for each 256 values.
    """

    def __init__(self, parameters: list[Parameter]) -> None:
        super().__init__(parameters, {"lr": 0.0})
        self.states = [
            torch.empty(math.ceil(2.03 * p.numel()), dtype=torch.uint8) for p in parameters
        ]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Change nothing."""
