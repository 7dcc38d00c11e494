"""A GPU for tests on machines that have none: its tensors live on the CPU, say that they do not, and mind how one deals
with them.

What a real GPU would refuse is refused (a CPU tensor where one of its own is needed), and so is what would make the
host wait for it: reading a value, a result whose size depends on values, a copy to the CPU. Numbers are the CPU's.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

DEVICE = torch.device("cuda", 0)
aten = torch.ops.aten
# Each makes the host wait until all that was asked for before is done.
WAITS = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten._unique2.default,
    aten.is_nonzero.default,
}
INDEXED = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}  # with masks, they count


class HostWaitError(Exception):
    """The host would have waited for the device."""


class WrongDeviceError(Exception):
    """A CPU tensor among tensors of the device."""


class OnDevice(Tensor):
    """A tensor of the simulated GPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        meta = torch.empty_strided(inner.shape, inner.stride(), dtype=inner.dtype, device="meta")
        made: OnDevice = Tensor._make_subclass(cls, meta, False, dispatch_device=True, device_for_backend_keys=DEVICE)
        made.inner = inner
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """As everybody sees it; below, the tensor is one of PyTorch's without memory."""
        return DEVICE

    def cpu(self, *_: Any, **__: Any) -> Tensor:
        """Which PyTorch itself would leave out, as it knows no device of this tensor."""
        raise HostWaitError("a copy to the CPU")

    def to(self, *args: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        """The same."""
        for leaf in (*args, *kwargs.values()):
            if isinstance(leaf, str | torch.device) and torch.device(leaf).type == "cpu":
                raise HostWaitError("a copy to the CPU")
        return super().to(*args, **kwargs)

    def __repr__(self, **_: Any) -> str:
        return f"OnDevice({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _carry_out(func, args, kwargs or {})


class SimulatedGpu(TorchDispatchMode):
    """While it is active, tensors can be made on "cuda" and copied to it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = pytree.tree_leaves((args, kwargs))
        if any(isinstance(leaf, OnDevice) or _is_gpu(leaf) for leaf in leaves):
            return _carry_out(func, args, kwargs)
        return func(*args, **kwargs)


@contextlib.contextmanager
def simulated_gpu(monkeypatch: Any) -> Iterator[None]:
    """Let this process believe in the device inside."""

    def made_from_numbers(make: Any) -> Any:
        def checked(*args: Any, **kwargs: Any) -> Any:
            if torch.device(kwargs.get("device") or "cpu").type == "cuda":
                raise HostWaitError("a tensor made on the device from numbers of the CPU")
            return make(*args, **kwargs)

        return checked

    with monkeypatch.context() as patch, SimulatedGpu():
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        for name in ("tensor", "as_tensor"):
            patch.setattr(torch, name, made_from_numbers(getattr(torch, name)))
        yield


def inside(tensor: Tensor) -> Tensor:
    """What a tensor of the device holds."""
    assert isinstance(tensor, OnDevice), tensor
    return tensor.inner


def _is_gpu(leaf: Any) -> bool:
    return isinstance(leaf, torch.device) and leaf.type == "cuda"


def _carry_out(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    leaves = pytree.tree_leaves((args, kwargs))
    _check(func, leaves, kwargs)

    def lower(leaf: Any) -> Any:
        if isinstance(leaf, OnDevice):
            return leaf.inner
        return torch.device("cpu") if _is_gpu(leaf) else leaf

    out = func(*pytree.tree_map(lower, args), **pytree.tree_map(lower, kwargs))
    wrapped = pytree.tree_map(lambda leaf: OnDevice(leaf) if type(leaf) is Tensor else leaf, out)
    return return_and_correct_aliasing(func, args, kwargs, wrapped)


def _check(func: Any, leaves: list[Any], kwargs: dict[str, Any]) -> None:
    masks = [leaf for leaf in leaves[1:] if isinstance(leaf, Tensor) and leaf.dtype in (torch.bool, torch.uint8)]
    if func in WAITS or (func in INDEXED and masks):
        raise HostWaitError(f"{func} reads values")
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    ours = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
    theirs = [tensor for tensor in tensors if not isinstance(tensor, OnDevice)]
    if func is aten._to_copy.default:
        if theirs and not kwargs.get("non_blocking"):
            raise HostWaitError("a copy from the CPU that is waited for")
    elif func is aten.copy_.default:
        if not isinstance(tensors[0], OnDevice):
            raise HostWaitError("a copy into a CPU tensor")
        if theirs and True not in leaves[2:]:
            raise HostWaitError("a copy from the CPU that is waited for")
    elif ours and any(tensor.ndim for tensor in theirs):
        raise WrongDeviceError(f"{func}: CPU tensors of {[tuple(tensor.shape) for tensor in theirs]}")


def moved(module: nn.Module) -> nn.Module:
    """A copy of the module on the device."""
    copied = copy.deepcopy(module)
    for part in copied.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                there = OnDevice(parameter.detach().clone())
                part._parameters[name] = nn.Parameter(there, requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = OnDevice(buffer.clone())
    return copied
