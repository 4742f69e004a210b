# Copyright (c) 2026, the nemo_dreamfusion authors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""How much memory a network will take, before any of it is taken: it is run once on torch's ``meta`` device.

There every operation has the sizes of the true one and no numbers, so that what lives at once can be added up: activations,
what the backward pass keeps, and what gradient checkpointing computes again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device('meta')


def weight_bytes(network: nn.Module, dtype: torch.dtype) -> int:
    """Return the bytes of a network's parameters in a precision.

    >>> weight_bytes(nn.Linear(3, 2, device='meta'), torch.float16)
    16
    """
    return sum(parameter.numel() for parameter in network.parameters()) * dtype.itemsize


def peak_bytes(run: Callable[[], Any]) -> int:
    """Return the most bytes that tensors made inside ``run`` hold at one time, all of them on the ``meta`` device.

    Attention is counted as a fused kernel does it: without the matrix of all pairs.

    >>> x = torch.empty(256, device='meta')  # 1 KiB, made before
    >>> peak_bytes(lambda: (x + 1) * 2)
    2048
    """
    with _fused_attention(), _Living() as living:
        run()
    return living.peak


class _Living(TorchDispatchMode):
    """Adds up the storages that are alive after each operation."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self._before: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            key = tensor.untyped_storage()._cdata
            if key not in self._live:
                self._before.add(key)
        output = func(*args, **(kwargs or {}))
        self._live = {key: entry for key, entry in self._live.items() if not entry[0].expired()}
        for tensor in _tensors(output):
            storage = tensor.untyped_storage()
            if storage._cdata not in self._before:
                self._live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return output


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


@contextmanager
def _fused_attention() -> Iterator[None]:
    """Put in the place of attention what has the inputs and outputs of a fused kernel.

    A function in torch's place and no mode of torch: a mode is off within the backward pass, which may compute it again.
    """
    own = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = lambda query, key, value, *_, **__: _Attention.apply(query, key, value)
    try:
        yield
    finally:
        F.scaled_dot_product_attention = own


class _Attention(torch.autograd.Function):
    """Keeps query, key, value and output for the backward pass."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, output)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])
