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

"""The optimizers that this package adds to NeMo's registry, and the checks of ``model.optim``.

``adan`` is our fused Adan. ``sharded_adam``, ``sharded_adamw`` and ``sharded_adan`` keep each parameter's optimizer state
on one rank only (ZeRO stage 1: Rajbhandari et al., 2020, https://arxiv.org/abs/1910.02054). torch's
``ZeroRedundancyOptimizer`` deals out whole tensors, so the largest one, the hash table, stays in one piece.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from nemo.core.optim.lr_scheduler import AVAILABLE_SCHEDULERS, prepare_lr_scheduler
from nemo.core.optim.optimizers import AVAILABLE_OPTIMIZERS
from nemo.utils import logging as nemo_logging
from torch.distributed.optim import ZeroRedundancyOptimizer

from nemo_dreamfusion.ops.adan import FusedAdan
from nemo_dreamfusion.parts.checks import (
    check_choice,
    check_keys,
    check_positive,
    check_types,
    first_line,
    nearest,
    refuse,
)

APEX_ONLY = ('distributed_fused_adam', 'fused_adam', 'lamb', 'megatron_fused_adam')
NOT_THE_OPTIMIZERS_OWN = ('name', 'sched', 'args', '_target_')
# What NeMo and Lightning read beside a schedule's options.
OF_SCHEDULES = ('name', 'monitor', 'reduce_on_plateau', 'args')


class _Sharded(ZeroRedundancyOptimizer):
    """Update this rank's share of the parameters, then send each to the other ranks."""

    kind: type[torch.optim.Optimizer]

    def __init__(self, params: Iterable, **options: Any) -> None:
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            refuse_sharding(f'sharded_{self.kind.__name__.lower().removeprefix("fused")}')
        # The optimizer would clip by the norm of this rank's share: step() clips by that of all parameters.
        self.max_grad_norm = options.pop('max_grad_norm', 0.0)
        super().__init__(params, optimizer_class=self.kind, **options)

    def step(self, closure: Callable[[], float] | None = None, **kwargs: Any) -> Any:
        """Make one step; every rank has the whole averaged gradient."""
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
    """Add ours to NeMo's registry; ``adan`` replaces NeMo's own, of the same formula and state."""
    AVAILABLE_OPTIMIZERS.update(
        adan=FusedAdan, sharded_adam=ShardedAdam, sharded_adamw=ShardedAdamW, sharded_adan=ShardedAdan
    )


def fused_options(optim: Mapping | None, device: torch.device) -> dict[str, bool]:
    """Return ``{'fused': True}`` where torch's Adam or AdamW should run as one kernel, else ``{}``.

    One kernel instead of a dozen; on a GPU it can leave a step out without asking the host.

    Args:
        optim: the ``model.optim`` node.
        device: of the parameters.
    """
    if device.type not in ('cuda', 'cpu'):
        return {}
    plain = optim and '_target_' not in optim and (optim.get('name') or 'adam') in ('adam', 'adamw')
    given = {'fused', 'foreach', 'capturable', 'differentiable', 'args'} & set(optim or ())
    return {'fused': True} if plain and not given else {}


def take_unscaled(optimizer: torch.optim.Optimizer) -> None:
    """Let the gradient scaler of 16-mixed undo its scale before callbacks and clipping look at the gradients.

    A fused optimizer of torch would undo it itself, within its step, and Lightning would refuse to clip.
    """
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]  # torch and Lightning ask for this name


def refuse_sharding(name: str) -> NoReturn:
    """Raise the ValueError for an optimizer ``sharded_…`` in a single process."""
    raise ValueError(
        f'model.optim.name = {name!r} shares its state between processes, and there is only one: set trainer.devices '
        f'or trainer.num_nodes above 1, or model.optim.name={name.removeprefix("sharded_")}.'
    )


def optimizer_class(optim: Mapping) -> type[torch.optim.Optimizer]:
    """Return the class of a ``model.optim`` node; for a sharded one the class that it shards, whose options it takes.

    Raises:
        ValueError: for an unknown name, apex's optimizers without apex, and a ``_target_`` that is no optimizer of torch.
    """
    if '_target_' in optim:
        return _torch_optimizer(optim['_target_'])
    name = optim.get('name') or 'adam'
    if name in APEX_ONLY and name not in AVAILABLE_OPTIMIZERS:
        raise ValueError(
            f'model.optim.name = {name!r} is from the package apex, which is not installed (it needs an NVIDIA GPU). Set '
            'model.optim.name=adam or adamw, or install apex.'
        )
    check_choice('model.optim.name', name, sorted(AVAILABLE_OPTIMIZERS))
    return getattr(AVAILABLE_OPTIMIZERS[name], 'kind', AVAILABLE_OPTIMIZERS[name])


def _torch_optimizer(target: Any) -> type[torch.optim.Optimizer]:
    base = torch.optim.Optimizer
    kinds = ((name, kind) for name, kind in vars(torch.optim).items() if inspect.isclass(kind))
    own = {name: kind for name, kind in kinds if issubclass(kind, base) and kind is not base}
    module, _, name = str(target).rpartition('.')
    if module == 'torch.optim' and name in own:
        return own[name]
    advice = ''
    if name.lower() in AVAILABLE_OPTIMIZERS:
        advice = f'Set model.optim.name={name.lower()} without _target_.'
    elif close := nearest(name, own, count=1):
        advice = f'Did you mean torch.optim.{close[0]}?'
    refuse('model.optim._target_', target, "one of torch's optimizers, torch.optim.*", advice)


def check_optim(optim: Mapping | None) -> None:
    """Refuse a ``model.optim`` node that no optimizer would take, before any work.

    Raises:
        ValueError: for what :func:`optimizer_class` refuses, a learning rate that is not positive, and options that the
            optimizer does not have.
    """
    if not optim:
        return
    cls = optimizer_class(optim)
    check_positive('model.optim.lr', optim.get('lr'))
    taken = inspect.signature(cls).parameters
    check_keys('model.optim', [key for key in optim if key not in NOT_THE_OPTIMIZERS_OWN], taken)


def check_param_groups(groups: Mapping | None, optim: Mapping | None, parts: Sequence[str]) -> None:
    """Refuse a ``model.optim_param_groups`` node, {part: {option: value}}, with an unknown part or option.

    Args:
        groups: the node, or None.
        optim: the ``model.optim`` node, whose optimizer must have the options.
        parts: the submodules that hold parameters.
    """
    if not groups:
        return
    name = 'model.optim_param_groups'
    check_types('model', {'optim_param_groups': groups}, {'optim_param_groups': Mapping})
    check_keys(name, groups, parts)
    check_types(name, groups, dict.fromkeys(groups, Mapping))
    for part, options in groups.items():
        check_keys(
            f'{name}.{part}', options, set(inspect.signature(optimizer_class(optim or {})).parameters) - {'params'}
        )
        check_positive(f'{name}.{part}.lr', options.get('lr', 1.0))


def check_schedule(sched: Any, optimizer: torch.optim.Optimizer, max_steps: int) -> None:
    """Refuse a ``model.optim.sched`` node of which NeMo cannot make a schedule, by making one for ``optimizer``.

    Raises:
        ValueError: for an unknown name or option, or with the schedule's own words.
    """
    name = 'model.optim.sched'
    if not isinstance(sched, Mapping):
        refuse(name, sched, 'a mapping with a name', 'Leave it out for one learning rate all along.')
    check_choice(f'{name}.name', sched.get('name'), sorted(AVAILABLE_SCHEDULERS))
    kind = AVAILABLE_SCHEDULERS[sched['name']]
    signatures = (inspect.signature(base.__init__).parameters for base in kind.__mro__)
    taken = {key for parameters in signatures for key in parameters} - {'self', 'optimizer', 'args', 'kwargs'}
    check_keys(name, sched, {*taken, *OF_SCHEDULES})
    try:
        with nemo_logging.temp_verbosity(logging.ERROR):
            made = prepare_lr_scheduler(optimizer, {**sched, 'max_steps': max_steps})
        optimizer.step()
        made['scheduler'].step(*[0.0] * made['reduce_on_plateau'])
    except Exception as error:  # a schedule may raise anything for options that it does not expect
        raise ValueError(f'{name}: {sched["name"]} refuses these settings: {first_line(error)}.') from error
