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

"""Frozen networks recorded as CUDA graphs: the launches of a thousand kernels become one.

On an H100 the UNet of Stable Diffusion 2.1 keeps the device busy for 10 ms, and the host, launching its kernels one by one,
for longer than that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_dreamfusion.parts.checks import check_choice, refuse

SWITCH = 'model.guidance.cuda_graphs'


class RecordedNetwork:
    """Called like the network. It is recorded once for each shape of its inputs, forward and, where an input asks for a
    gradient, backward, and replayed from then on.

    The output stands in memory that the next call writes to: copy what is to last. So do the activations: the backward pass
    of a call must come before the next call. A recording keeps them, so a VAE's encoder holds on to what it needs for its
    backward pass (some GiB at 512 x 512).

    Args:
        network: frozen, on a CUDA device, without randomness and without decisions that depend on values.
    """

    def __init__(self, network: Callable[..., Tensor]) -> None:
        self.network = network
        self._recordings: dict[tuple, Callable[..., Tensor]] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        wanted = [x.requires_grad and torch.is_grad_enabled() for x in inputs]
        kind = tuple((x.shape, x.dtype, want) for x, want in zip(inputs, wanted))
        if kind not in self._recordings:
            samples = tuple(x.detach().clone().requires_grad_(want) for x, want in zip(inputs, wanted))
            self._recordings[kind] = torch.cuda.make_graphed_callables(self._run, samples)
        return self._recordings[kind](*inputs)

    def _run(self, *inputs: Tensor) -> Tensor:
        return self.network(*inputs)  # a function: of a module, torch would put the recording into the module itself


@dataclass(frozen=True)
class Recording:
    """Which networks are recorded: the switch, and what speaks against each.

    Raises:
        ValueError: for a switch that is not false, true or ``auto``, or true where something speaks against it.
    """

    switch: bool | str
    score: str
    checkpoint_vae: bool

    def __post_init__(self) -> None:
        check_choice(SWITCH, self.switch, (False, True, 'auto'))
        if self.switch is True and not self.unet:
            refuse(SWITCH, True, 'false or auto where score=vsd trains adapters inside of the UNet')
        if self.switch is True and not self.encoder:
            refuse(SWITCH, True, 'false or auto where checkpoint_vae computes the encoder a second time')

    @property
    def unet(self) -> bool:
        return self.score != 'vsd'

    @property
    def encoder(self) -> bool:
        return not self.checkpoint_vae

    def takes_place(self, device: torch.device) -> bool:
        """Whether to record on this device. ValueError where it was asked for and is no CUDA device.

        ``auto`` does not where there are several processes: NCCL's own thread may disturb a recording, and none was tried.
        """
        if self.switch is True and device.type != 'cuda':
            refuse(SWITCH, True, f'false or auto on {device.type}: CUDA graphs are of CUDA devices')
        if self.switch == 'auto' and torch.distributed.is_available() and torch.distributed.is_initialized():
            return False
        return bool(self.switch) and device.type == 'cuda'
