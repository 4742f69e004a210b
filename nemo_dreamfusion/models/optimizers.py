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

"""The optimizers that this package adds to NeMo's registry, and the check of ``model.optim``.

``adan`` is our fused Adan. ``sharded_adam``, ``sharded_adamw`` and ``sharded_adan`` keep each parameter's optimizer state
on one rank only (ZeRO stage 1: Rajbhandari et al., 2020, https://arxiv.org/abs/1910.02054). torch's
``ZeroRedundancyOptimizer`` deals out whole tensors, so the largest one, the hash table, stays in one piece.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from nemo.core.optim.optimizers import AVAILABLE_OPTIMIZERS
from torch import Tensor
from torch.distributed.optim import ZeroRedundancyOptimizer

from nemo_dreamfusion.ops.adan import FusedAdan
from nemo_dreamfusion.parts.checks import check_choice, check_keys, check_positive

APEX_ONLY = ('fused_adam', 'lamb')
NOT_THE_OPTIMIZERS_OWN = ('name', 'sched', 'args', '_target_')


class _Sharded(ZeroRedundancyOptimizer):
    """Updates this rank's share of the parameters, then sends each to the other ranks."""

    kind: type[torch.optim.Optimizer]

    def __init__(self, params: Iterable, **options: Any) -> None:
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            raise ValueError(
                f'model.optim.name = sharded_{self.kind.__name__.lower().removeprefix("fused")} shares its state between '
                'processes, and there is only one: set trainer.devices or trainer.num_nodes above 1, or take the '
                'optimizer without "sharded_".'
            )
        # Its norm would be that of this rank's share: clipped here, over all parameters.
        self.max_grad_norm = options.pop('max_grad_norm', 0.0)
        super().__init__(params, optimizer_class=self.kind, **options)

    def step(self, closure=None, **kwargs: Any) -> Tensor | None:
        """As the optimizer's own; every rank has the whole averaged gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.max_grad_norm:
            everything = [p for group in self.param_groups for p in group['params']]
            torch.nn.utils.clip_grad_norm_(everything, self.max_grad_norm)
        super().step(**kwargs)
        return loss


class ShardedAdam(_Sharded):
    """``sharded_adam``: takes the options of torch's Adam."""

    kind = torch.optim.Adam


class ShardedAdamW(_Sharded):
    """``sharded_adamw``: takes the options of torch's AdamW."""

    kind = torch.optim.AdamW


class ShardedAdan(_Sharded):
    """``sharded_adan``: takes the options of our Adan."""

    kind = FusedAdan


def register_optimizers() -> None:
    """Adds ours to NeMo's registry; ``adan`` replaces NeMo's own, of the same formula and state."""
    AVAILABLE_OPTIMIZERS.update(
        adan=FusedAdan, sharded_adam=ShardedAdam, sharded_adamw=ShardedAdamW, sharded_adan=ShardedAdan
    )


def check_optim(optim: Mapping | None) -> None:
    """Refuses a ``model.optim`` node that no optimizer would take, before any work.

    Raises:
        ValueError: for an unknown name, apex's optimizers without apex, a learning rate that is not positive, and options
            that the optimizer does not have.
    """
    if not optim or '_target_' in optim:
        return
    name = optim.get('name') or 'adam'
    if name in APEX_ONLY and name not in AVAILABLE_OPTIMIZERS:
        raise ValueError(
            f'model.optim.name = {name!r} is from the package apex, which is not installed (it needs an NVIDIA GPU). Set '
            'model.optim.name=adam or adamw, or install apex.'
        )
    check_choice('model.optim.name', name, sorted(AVAILABLE_OPTIMIZERS))
    check_positive('model.optim.lr', optim.get('lr'))
    cls = AVAILABLE_OPTIMIZERS[name]
    taken = inspect.signature(getattr(cls, 'kind', cls)).parameters
    check_keys('model.optim', [key for key in optim if key not in NOT_THE_OPTIMIZERS_OWN], taken)
