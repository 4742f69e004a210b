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

"""The gradient scaler of 16-mixed, without a wait of the host for the GPU."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from nemo_dreamfusion.callbacks.non_finite import skips_by_itself


class AsyncGradScaler(torch.amp.GradScaler):
    """torch's gradient scaler, but an optimizer that can leave a step out by itself is told so by a tensor.

    torch's own reads from the device whether a gradient was not finite, and the host waits for the whole step. With fused
    optimizers torch avoids that, too, but then they undo the scale, and who looks at gradients before the step sees scaled
    ones; here gradients are unscaled first. The scale itself changes on the device in both.
    """

    def _maybe_opt_step(self, optimizer: Any, optimizer_state: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Make a step, or leave it out. A torch that calls no such method waits, and is otherwise the same."""
        if not skips_by_itself(optimizer):
            return super()._maybe_opt_step(optimizer, optimizer_state, *args, **kwargs)
        flags = list(optimizer_state['found_inf_per_device'].values())
        known = getattr(optimizer, 'found_inf', None)  # of the loss, and of other ranks: SkipNonFinite
        if known is not None:
            flags.append(known)
        found = torch.cat([flag.reshape(1).to(flags[0].device) for flag in flags])
        optimizer.found_inf = found.amax()  # 0 or 1: torch's kernels know nothing else
        step = optimizer.step(*args, **kwargs)
        optimizer.found_inf = None
        return step


def install_scaler(trainer: pl.Trainer) -> None:
    """Give a trainer of 16-mixed our scaler in the place of torch's."""
    plugin = trainer.precision_plugin
    if isinstance(plugin, MixedPrecision) and type(plugin.scaler) is torch.amp.GradScaler:
        scaler = AsyncGradScaler(device=plugin.device)
        scaler.load_state_dict(plugin.scaler.state_dict())
        plugin.scaler = scaler
