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

"""The network that variational score distillation learns: the frozen UNet with low-rank adapters and a camera embedding.

The adapters live inside the frozen UNet and are switched off but for their own two calls, so that the frozen prediction
stays exactly what it was. They are float32 whatever the precision of the UNet. Needs the package peft.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nemo_dreamfusion.modules.guidance.diffusion import NoiseSchedule, random_normal
from nemo_dreamfusion.modules.guidance.guidance_mixing import Conditioning
from nemo_dreamfusion.modules.guidance.networks.unet import NoisePredictor
from nemo_dreamfusion.parts.optional import require

NAME = 'vsd'
TARGETS = ['to_q', 'to_k', 'to_v', 'to_out.0']
POSE_DROPOUT = 0.1  # share of the learning steps that see no camera


class LoraNoise:
    """Predicts eps(x_t; y, c): y the prompt without a view, c the camera's pose, added to the time embedding.

    Args:
        predictor: the frozen UNet as a predictor of noise, on its device.
        schedule: its noise schedule.
        rank: of the adapters.
        learning_rate: of AdamW.
    """

    def __init__(self, predictor: NoisePredictor, schedule: NoiseSchedule, *, rank: int, learning_rate: float) -> None:
        reason = 'model/guidance/score=vsd learns with it'
        peft = require('peft', extra='vsd', reason=reason, instead='model/guidance/score=sds')
        unet = predictor.unet
        self.predictor, self.unet, self.schedule, self.dtype = predictor, unet, schedule, unet.dtype
        with torch.random.fork_rng(devices=[]):  # the same start for every run, and nobody else's numbers are used
            torch.manual_seed(0)
            unet.add_adapter(peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS), adapter_name=NAME)
            width = unet.time_embedding.linear_2.out_features
            last = nn.Linear(width, width)
            self.pose = nn.Sequential(nn.Linear(16, width), nn.SiLU(), last).to(unet.device)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.adapters = {name: p for name, p in unet.named_parameters() if f'.{NAME}.' in name}
        for parameter in self.adapters.values():
            parameter.data = parameter.data.float()
        self.parameters = [*self.adapters.values(), *self.pose.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=learning_rate)
        # Keeps small gradients above the least number of half precision.
        self.scale = 1024.0 if self.dtype == torch.float16 else 1.0
        unet.disable_adapters()

    @contextmanager
    def _switched_on(self, pose: Tensor) -> Iterator[None]:
        """Let the UNet see the adapters, and the cameras' poses [B, 16] beside the time."""
        self.unet.enable_adapters()
        time: Any = self.unet.time_embedding
        hook = time.register_forward_hook(lambda module, given, found: found + self.pose(pose).to(found.dtype))
        try:
            yield
        finally:
            hook.remove()
            self.unet.disable_adapters()

    def _output(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        return self.predictor(noisy, self.schedule.network_times(t), conditioning.plain).float()

    @torch.no_grad()
    def __call__(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Predict the noise in x_t = ``noisy``: [B, C, h, w], float32."""
        with self._switched_on(conditioning.pose):
            return self.schedule.epsilon(self._output(noisy, t, conditioning), noisy, t)

    def learn(self, x0: Tensor, conditioning: Conditioning, generator: torch.Generator) -> None:
        """Make one step of the ordinary training of a diffusion model on x0, at a time and with noise of its own.

        The error is that of v, whatever the network predicts: that of eps hardly counts the times of much noise, and the
        object becomes over-saturated once the score looks at small times alone (threestudio, issue 99).
        """
        shape, device = (len(x0),), generator.device
        t = torch.randint(0, len(self.schedule), shape, generator=generator, device=device).to(x0.device)
        noise = random_normal(x0.shape, generator, x0.device)
        seen = (torch.rand(shape, generator=generator, device=device) >= POSE_DROPOUT).to(x0.device)
        with torch.enable_grad(), self._switched_on(conditioning.pose * seen[:, None]):
            noisy = self.schedule.add_noise(x0, noise, t)
            found = self.schedule.velocity(self._output(noisy, t, conditioning), noisy, t)
            loss = F.mse_loss(found, self.schedule.velocity_of(x0, noise, t))
            gradients = torch.autograd.grad(loss * self.scale, self.parameters)
        self._step([g / self.scale for g in gradients])

    def _step(self, gradients: list[Tensor]) -> None:
        """Step AdamW with the mean gradient over the ranks; a step that is not finite is left out."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for gradient in gradients:
                torch.distributed.all_reduce(gradient)
            gradients = [g / torch.distributed.get_world_size() for g in gradients]
        if not all(bool(g.isfinite().all()) for g in gradients):
            return
        for parameter, gradient in zip(self.parameters, gradients):
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """Return adapters, camera embedding and optimizer, for the checkpoint."""
        adapters = {name: p.detach().cpu().clone() for name, p in self.adapters.items()}
        return {'adapters': adapters, 'pose': self.pose.state_dict(), 'optimizer': self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` returned; ValueError for adapters of another UNet, score or rank."""
        stored, own = (
            {name: tuple(p.shape) for name, p in a.items()} for a in (state.get('adapters', {}), self.adapters)
        )
        if stored != own:
            raise ValueError(
                'The checkpoint holds the adapters of another UNet, of another score or of another rank. Resume with the '
                'same model.guidance.source, model/guidance/score and model.guidance.score.rank, or start a new run.'
            )
        for name, parameter in self.adapters.items():
            parameter.data.copy_(state['adapters'][name])
        self.pose.load_state_dict(state['pose'])
        self.optimizer.load_state_dict(state['optimizer'])
