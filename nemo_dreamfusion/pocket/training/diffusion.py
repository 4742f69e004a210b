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

"""Train the UNet and the text encoder together on cached latents: ε-prediction, min-SNR weights, EMA, open end.

A caption is the prompt under the camera words nearest to the view, mixed (see ``texts.py``).
"""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import trange

from nemo_dreamfusion.parts.checks import check_positive, check_range, refuse
from nemo_dreamfusion.parts.files import atomic_path
from nemo_dreamfusion.pocket.training import networks
from nemo_dreamfusion.pocket.training.dataset import Renders
from nemo_dreamfusion.pocket.training.poses import told_pose
from nemo_dreamfusion.pocket.training.texts import mix_states, tokenize_plain, tokenize_views
from nemo_dreamfusion.pocket.world.captions import KNOWN_WORDS
from nemo_dreamfusion.pocket.world.prompts import has_front


@dataclass
class DiffusionConfig:
    """Sizes and schedule of the UNet and the text encoder.

    The learning rate stays at its peak until the last `decay_steps`. The end comes after `steps`, or sooner when
    the clock nears `finish_at` or a file named FINISH appears in the work folder: then the decay starts.
    """

    channels: tuple[int, int, int] = (64, 128, 128)
    text_width: int = 96
    steps: int = 20000
    finish_at: str = ''  # HH:MM, the next such time; empty: never
    decay_steps: int = 500
    warmup_steps: int = 150
    batch: int = 16
    peak_lr: float = 1e-3
    ema: float = 0.999
    min_snr_gamma: float = 5.0
    noise_power: float = 0.75  # extra weight snr^-power where noise hides the view and only the caption tells
    front_share: float = 2.0  # how much more often objects with a front are drawn than they occur
    empty_share: float = 0.1  # captions replaced by "" for classifier-free guidance
    viewless_share: float = 0.05  # captions without their view suffix
    bf16: bool = False  # autocast: twice as fast on CPUs with AVX-512 BF16 or AMX, many times slower on others
    save_every: int = 100
    publish_at: tuple[int, ...] = (100, 300)  # the first steps after which the model is published
    publish_every: int = 400

    def __post_init__(self) -> None:
        check_range('diffusion.steps', self.steps, 0, integer=True)
        for name in ('decay_steps', 'warmup_steps', 'batch', 'save_every', 'publish_every'):
            check_positive(f'diffusion.{name}', getattr(self, name), integer=True)
        if self.finish_at and not re.fullmatch(r'([01]?\d|2[0-3]):[0-5]\d', self.finish_at):
            refuse('diffusion.finish_at', self.finish_at, 'a time of day HH:MM, or empty')


def seconds_until(clock: str) -> float:
    """Return the seconds to the next HH:MM of local time; infinite for an empty string."""
    if not clock:
        return float('inf')
    now = datetime.now()
    hour, minute = map(int, clock.split(':'))
    then = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return ((then - now).total_seconds()) % 86400


class DiffusionTrainer:
    """Hold the model, its average and its optimizer; every step depends on (seed, step) alone, so that runs resume exactly.

    Args:
        latents: [V, N, 4, h, w] float16, scaled.
        renders: the N captioned images.
        folder: the work folder with the checkpoint.
        config: sizes and schedule.
        seed: of everything random, which is drawn on the CPU.
        device: of the networks.
        prediction: what the UNet learns to predict: ``epsilon``, or ``flow``, the velocity of a rectified flow.
        views: of one object, next to each other in the renders; more than one are told their cameras and attend to each
            other, and share a time and a caption's fate.
    """

    def __init__(
        self,
        latents: Tensor,
        renders: Renders,
        folder: Path,
        config: DiffusionConfig,
        seed: int,
        device: torch.device,
        prediction: str = 'epsilon',
        views: int = 1,
    ) -> None:
        torch.manual_seed(seed)
        self.latents, self.folder, self.config, self.seed, self.device = latents, folder, config, seed, device
        self.renders, self.views = renders, views
        self.tokenizer = networks.build_tokenizer(KNOWN_WORDS)
        objects = renders.prompts[::views]
        shares = np.array([config.front_share if has_front(prompt) else 1.0 for prompt in objects])
        self.shares = shares / shares.sum()  # [N / views]
        self.prediction, self.schedule = prediction, networks.build_schedule(prediction)
        self.model = nn.ModuleDict(
            {
                'unet': networks.build_unet(config.channels, latents.shape[-1], config.text_width, views),
                'text_encoder': networks.build_text_encoder(self.tokenizer, config.text_width),
            }
        )
        self.model = self.model.to(device).train()
        self.average = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.peak_lr, betas=(0.9, 0.99), weight_decay=0.01
        )
        self.step, self.end, self.loss = 0, config.steps, float('nan')
        self._resume()

    def start_from(self, folder: Path) -> None:
        """Take the networks of a published folder, with a fresh optimizer, to go on without a work folder."""
        published = networks.load_pipeline(folder)
        for network in (self.model, self.average):
            networks.adopt_unet(network['unet'], published.unet)
            networks.adopt_text_encoder(
                network['text_encoder'], self.tokenizer, published.text_encoder, published.tokenizer
            )

    def train(self, publish: Callable[[DiffusionTrainer], Any]) -> None:
        """Run to the end; `publish(self)` is called at the first, the regular and the last steps.

        Where the end was reached before, it is called once, which publishes without training.
        """
        if self.end == 0:
            refuse('diffusion.steps', 0, 'at least 1 where the work folder holds no checkpoint to publish')
        if self.step == self.end:
            publish(self)
        config, started, first = self.config, time.monotonic(), self.step
        deadline = started + seconds_until(config.finish_at)
        progress = trange(self.step, self.end, initial=self.step, total=self.end, desc='UNet', mininterval=5)
        while self.step < self.end:
            self._update()
            progress.update()
            if self.step % 10 == 0:
                progress.set_postfix(loss=f'{self.loss:.4f}')
            seconds = (time.monotonic() - started) / (self.step - first)
            left = deadline - time.monotonic() - config.decay_steps * seconds
            if self.end > self.step + config.decay_steps and (left < 0 or (self.folder / 'FINISH').exists()):
                self.end = progress.total = self.step + config.decay_steps
            if self.step % config.save_every == 0 or self.step == self.end:
                self._save()
            if self.step in config.publish_at or self.step % config.publish_every == 0 or self.step == self.end:
                publish(self)

    def learning_rate(self) -> float:
        """Return the learning rate: a linear warm-up, a constant, and a linear decay to zero at the end."""
        config = self.config
        rise = (self.step + 1) / config.warmup_steps
        fall = (self.end - self.step) / config.decay_steps
        return config.peak_lr * min(1.0, rise, fall)

    def _update(self) -> None:
        """Make one step of the optimizer and of the average."""
        rng = np.random.default_rng([self.seed, 4, self.step])
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
        clean, ids, shares, pose = self._batch(rng)
        noise = torch.randn(clean.shape, generator=generator)
        objects = len(ids) // self.views
        times = torch.from_numpy((((np.arange(objects) + rng.random()) / objects) * 1000).astype(np.int64))
        times = times.repeat_interleave(self.views)
        noisy = self.schedule.add_noise(clean, noise, times)
        wanted = self.schedule.velocity_of(clean, noise, times) if self.prediction == 'flow' else noise
        told, weight = self.schedule.network_times(times), self._weights(times)
        batch = (noisy, wanted, ids, shares, told, weight)
        noisy, wanted, ids, shares, told, weight = (t.to(self.device) for t in batch)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16), self._attention():
            states = mix_states(self.model['text_encoder'], ids, shares)
            pose = None if pose is None else pose.to(self.device)
            predicted = self.model['unet'](noisy, told, states, class_labels=pose, return_dict=False)[0].float()
        errors = (predicted - wanted).square().mean((1, 2, 3))  # [batch]
        self.optimizer.zero_grad()
        (weight * errors).mean().backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group['lr'] = self.learning_rate()
        self.optimizer.step()
        self.step += 1
        self._update_average()
        smooth = min(0.99, 1 - 1 / self.step)
        error = errors.mean().item()
        self.loss = error if self.step == 1 else smooth * self.loss + (1 - smooth) * error

    def _weights(self, times: Tensor) -> Tensor:
        """Return the weights of the squared errors at these times [batch].

        Min-SNR-γ (https://arxiv.org/abs/2303.09556); that of ε has more weight where noise hides the view, which
        the error of a velocity has of its own.
        """
        snr = (self.schedule.a[times] / self.schedule.sigma[times]).square()
        weight = snr.clamp(max=self.config.min_snr_gamma) / snr
        if self.prediction == 'flow':
            return torch.where(snr > self.config.min_snr_gamma, weight, torch.ones_like(snr))
        return weight * snr.clamp(0.01, 1.0) ** -self.config.noise_power

    def _attention(self) -> AbstractContextManager[Any]:
        """Choose the plain formula on CPUs: with its gradient, a fifth of a step faster for so few tokens."""
        return sdpa_kernel(SDPBackend.MATH) if self.device.type == 'cpu' else nullcontext()

    def _batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Draw latents [batch, 4, h, w] and what is told of their views.

        These are token ids [batch, 4, L], their weights [batch, 4] and, with several views, the cameras [batch, 16].
        """
        config, views, variants = self.config, self.views, len(self.latents)
        objects = config.batch // views
        index = rng.choice(len(self.shares), size=objects, p=self.shares)
        index = (index[:, None] * views + np.arange(views)).ravel()
        variant = rng.integers(variants, size=config.batch)
        share = rng.random(objects).repeat(views)
        empty, viewless = share < config.empty_share, share > 1 - config.viewless_share
        prompts = ['' if e else self.renders.prompts[i] for i, e in zip(index, empty, strict=True)]
        azimuth, elevation = (
            torch.from_numpy(a[index]) for a in (self.renders.azimuth_deg, self.renders.elevation_deg)
        )
        ids, weights = tokenize_views(self.tokenizer, prompts, azimuth, elevation)
        plain_ids, plain_weights = tokenize_plain(self.tokenizer, prompts)
        plain = torch.from_numpy(empty | viewless)
        ids = torch.where(plain[:, None, None], plain_ids, ids)
        weights = torch.where(plain[:, None], plain_weights, weights)
        pose = told_pose(self.model['unet'], azimuth, elevation)
        return self.latents[variant, index].float(), ids, weights, pose

    def _update_average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)

    def _save(self) -> None:
        state = {name: getattr(self, name).state_dict() for name in ('model', 'average', 'optimizer')}
        with atomic_path(self.folder / 'diffusion.pt') as temporary:
            torch.save(state | {'step': self.step, 'end': self.end, 'loss': self.loss}, temporary)

    def _resume(self) -> None:
        """Go on from the last checkpoint, if any. A finished run goes on when `steps` was raised; it never goes back."""
        path = self.folder / 'diffusion.pt'
        if not path.exists():
            return
        state = torch.load(path, map_location='cpu')
        for name in ('model', 'average', 'optimizer'):
            getattr(self, name).load_state_dict(state[name])
        self.step, self.loss = state['step'], state['loss']
        cut_short = self.step < state['end'] < self.config.steps
        self.end = state['end'] if cut_short else max(self.step, self.config.steps)
