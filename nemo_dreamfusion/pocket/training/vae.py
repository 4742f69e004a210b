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

"""Train the autoencoder: renders over random backgrounds, to latents and back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import trange

from nemo_dreamfusion.parts.files import atomic_path
from nemo_dreamfusion.parts.images import compute_psnr
from nemo_dreamfusion.pocket.training.dataset import Renders
from nemo_dreamfusion.pocket.training.networks import build_vae

SPAN = 2.0  # of a pixel: the autoencoder sees [−1, 1]


@dataclass
class VaeCycle:
    """One rise and fall of the learning rate."""

    steps: int
    peak_lr: float
    batch: int
    norm_groups: int  # of all group norms


@dataclass
class VaeConfig:
    """Sizes and schedule of the autoencoder. A cycle more, appended later, goes on with a finished training."""

    channels: tuple[int, ...] = (24, 48, 64)  # one halving of the sides between neighbours
    cycles: list[VaeCycle] = field(
        default_factory=lambda: [VaeCycle(2300, 1.5e-3, 10, 8), VaeCycle(2400, 1e-3, 16, 4)]
    )
    warmup_share: float = 0.1
    kl_weight: float = 1e-4
    l1_weight: float = 0.5
    edge_weight: float = 0.5
    bf16: bool = False  # autocast: twice as fast on CPUs with AVX-512 BF16 or AMX, many times slower on others
    save_every: int = 200

    @property
    def steps(self) -> int:
        """Return the steps of all cycles."""
        return sum(cycle.steps for cycle in self.cycles)

    def find_cycle(self, step: int) -> tuple[VaeCycle, float]:
        """Return the cycle of a step, and the part of it that is over, in [0, 1)."""
        for cycle in self.cycles:
            if step < cycle.steps:
                return cycle, step / cycle.steps
            step -= cycle.steps
        return self.cycles[-1], 1.0


def train_vae(renders: Renders, folder: Path, config: VaeConfig, seed: int, device: torch.device) -> Any:
    """Train the autoencoder on `device`, or go on from the checkpoint in `folder`, and set its scaling factor."""
    size = renders.rgba.shape[1]
    torch.manual_seed(seed)
    vae = build_vae(config.channels, size, config.cycles[-1].norm_groups)
    vae = vae.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), betas=(0.9, 0.99), weight_decay=1e-4)
    start = _resume(folder / 'vae.pt', vae, optimizer)
    progress = trange(start, config.steps, initial=start, total=config.steps, desc='autoencoder', mininterval=5)
    for step in progress:
        rng = np.random.default_rng([seed, 1, step])
        cycle, done = config.find_cycle(step)
        images = renders.compose(rng.integers(len(renders), size=cycle.batch), rng)
        _set_norm_groups(vae, cycle.norm_groups)
        for group in optimizer.param_groups:
            group['lr'] = cycle.peak_lr * one_cycle(done, config.warmup_share)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        loss, psnr_db = _vae_step(vae, optimizer, images, config, generator)
        if step % 20 == 0:
            progress.set_postfix(loss=f'{loss:.4f}', psnr_db=f'{psnr_db:.2f}')
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            _save(folder / 'vae.pt', vae, optimizer, step + 1)
    _set_norm_groups(vae, config.cycles[-1].norm_groups)
    vae.eval().requires_grad_(False)
    vae.register_to_config(scaling_factor=1 / _measure_latent_std(vae, renders, seed))
    return vae


def _set_norm_groups(vae: Any, groups: int) -> None:
    for module in vae.modules():
        if isinstance(module, nn.GroupNorm):
            module.num_groups = groups


def one_cycle(progress: float, warmup_share: float) -> float:
    """Return the share of the peak learning rate at `progress` in [0, 1]: a linear rise, then half a cosine to zero."""
    if progress < warmup_share:
        return 0.05 + 0.95 * progress / warmup_share
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup_share) / (1 - warmup_share)))


def reconstruct(vae: Any, images: Tensor) -> Tensor:
    """Encode to the mean and decode: [n, 3, S, S] in [−1, 1] → the same, on the CPU."""
    with torch.inference_mode():
        return vae.decode(vae.encode(images.to(vae.device)).latent_dist.mode()).sample.clamp(-1, 1).cpu()


def encode(vae: Any, images: Tensor) -> Tensor:
    """Return the scaled mean latents of images [n, 3, S, S] in [−1, 1]: [n, 4, h, w] in float16, on the CPU."""
    images = images.to(vae.device, memory_format=torch.channels_last)
    with torch.inference_mode():
        latents = vae.encode(images).latent_dist.mode() * vae.config.scaling_factor
    return latents.half().contiguous().cpu()


def compute_loss(vae: Any, images: Tensor, config: VaeConfig, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the loss of a batch [n, 3, S, S] in [−1, 1], and its reconstruction, on the autoencoder's device."""
    images = images.to(vae.device).contiguous(memory_format=torch.channels_last)
    with torch.autocast(vae.device.type, torch.bfloat16, enabled=config.bf16):
        posterior = vae.encode(images).latent_dist
        output = vae.decode(posterior.sample(generator)).sample.float()
    error = output - images
    loss = error.square().mean() + config.l1_weight * error.abs().mean()
    loss = loss + config.edge_weight * (_compute_edge_loss(error, 2) + _compute_edge_loss(error, 3))
    loss = loss + config.kl_weight * posterior.kl().float().mean() / posterior.mean[0].numel()
    return loss, output


def _vae_step(
    vae: Any, optimizer: torch.optim.Optimizer, images: Tensor, config: VaeConfig, generator: torch.Generator
) -> tuple[float, float]:
    """Make one update; return the loss and the PSNR in dB of the batch [n, 3, S, S]."""
    loss, output = compute_loss(vae, images, config, generator)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
    optimizer.step()
    return loss.item(), compute_psnr(output.detach(), images.to(output.device), SPAN)


def _compute_edge_loss(error: Tensor, dim: int) -> Tensor:
    """Return the mean absolute difference of neighbouring pixels of the error, which blurred edges make large."""
    return error.diff(dim=dim).abs().mean()


def _measure_latent_std(vae: Any, renders: Renders, seed: int) -> float:
    rng = np.random.default_rng([seed, 2])
    images = renders.compose(rng.integers(len(renders), size=min(256, len(renders))), rng)
    with torch.inference_mode():
        return vae.encode(images.to(vae.device)).latent_dist.mode().std().item()


def encode_all(vae: Any, renders: Renders, path: Path, variants: int, seed: int) -> Tensor:
    """Encode all renders over `variants` backgrounds; return scaled latent means [variants, N, 4, h, w] in float16.

    They are kept in the file `path`, and read from it where it fits.
    """
    if path.exists():
        latents = torch.load(path)
        if latents.shape[:2] == (variants, len(renders)):
            return latents
    rows = []
    for variant in range(variants):
        rng = np.random.default_rng([seed, 3, variant])
        batches = np.array_split(np.arange(len(renders)), -(-len(renders) // 64))
        for i in trange(len(batches), desc=f'latents {variant + 1}/{variants}', mininterval=5):
            rows.append(encode(vae, renders.compose(batches[i], rng)))
    latents = torch.cat(rows)
    latents = latents.view(variants, len(renders), *latents.shape[1:])
    with atomic_path(path) as temporary:
        torch.save(latents, temporary)
    return latents


def _save(path: Path, vae: Any, optimizer: torch.optim.Optimizer, step: int) -> None:
    with atomic_path(path) as temporary:
        torch.save({'step': step, 'vae': vae.state_dict(), 'optimizer': optimizer.state_dict()}, temporary)


def _resume(path: Path, vae: Any, optimizer: torch.optim.Optimizer) -> int:
    """Load the last checkpoint, if any; return the step to go on with."""
    if not path.exists():
        return 0
    state = torch.load(path, map_location='cpu')
    vae.load_state_dict(state['vae'])
    optimizer.load_state_dict(state['optimizer'])
    return state['step']
