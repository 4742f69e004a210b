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

"""What a guidance will take of a device's memory, said before it is loaded, and what to switch on where it will not fit."""

from __future__ import annotations

import dataclasses
import logging
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nemo_dreamfusion.modules.guidance.families.base import Family
from nemo_dreamfusion.modules.guidance.latent_maps import LatentOptions
from nemo_dreamfusion.modules.guidance.networks.memory import META, peak_bytes, weight_bytes
from nemo_dreamfusion.modules.guidance.networks.options import NetworkOptions
from nemo_dreamfusion.modules.guidance.networks.precision import weight_dtype
from nemo_dreamfusion.modules.guidance.networks.vae import ImageEncoder

logger = logging.getLogger(__name__)
SMALL = 2**28  # bytes of weights below which nothing needs a plan
_GIB = 2**30
_WORTH = 0.03  # least share of the whole that an advice saves
_SHARE = 0.95  # of the free memory that a plan may fill: kernels and the allocator want some


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes at one time, as far as they can be known: what kernels use inside, and a CUDA context, come on top.

    text: the largest text encoder; it is freed before the others are loaded.
    weights: of network and VAE encoder.
    network: activations of the network in one call.
    encoder: activations of the VAE's encoder, kept for its backward pass.
    scene: field and optimizer.
    """

    text: int
    weights: int
    network: int
    encoder: int
    scene: int = 0

    @property
    def total(self) -> int:
        """The most that is held at one time."""
        return self.scene + max(self.text, self.weights + self.network + self.encoder)

    def __str__(self) -> str:
        parts = (
            ('the weights of the network and the VAE', self.weights),
            ('the activations of the network', self.network),
            ("the VAE's, which its backward pass needs", self.encoder),
            ('the scene and its optimizer', self.scene),
        )
        said = ', '.join(f'{size / _GIB:.1f} GiB for {what}' for what, size in parts)
        text = f'before that {self.text / _GIB:.1f} GiB for the largest text encoder'
        return f'The guidance needs about {self.total / _GIB:.1f} GiB: {said}; {text}'


def say_memory(
    family: Family,
    networks: NetworkOptions,
    latents: LatentOptions,
    *,
    rows: int,
    images: int,
    device: torch.device,
    scene: int,
) -> None:
    """Log what one step takes: as a warning with advice, where it is more than there is. Nothing of a small model.

    The arguments are those of :func:`plan_memory`.
    """
    if not hasattr(family.weights, 'build_empty') or _bytes_on_disk(family.weights) < SMALL:
        return
    free = free_memory(device)
    sizes: dict[str, Any] = {'rows': rows, 'images': images, 'device': device, 'scene': scene}
    plan = plan_memory(family, networks, latents, **sizes)
    if free is None:
        logger.info('%s.', plan)
    elif plan.total <= _SHARE * free:
        logger.info('%s. %.1f GiB are free.', plan, free / _GIB)
    else:
        ways = advise(plan, family, networks, latents, **sizes)
        logger.warning('%s. Only %.1f GiB are free: %s.', plan, free / _GIB, '; '.join(ways))


def _bytes_on_disk(weights: Any) -> float:
    """Return the size of the weights of a folder or a file; of the hub's it is not known, and taken for large."""
    if not weights.is_local:
        return math.inf
    files = [name for name in weights.repository.names if name.endswith('.safetensors')]
    return sum(size for size, _ in weights.repository.identity(files).values())


def plan_memory(
    family: Family,
    networks: NetworkOptions,
    latents: LatentOptions,
    *,
    rows: int,
    images: int,
    device: torch.device,
    scene: int = 0,
) -> MemoryPlan:
    """Return what one step takes. Loads nothing.

    Args:
        family: of a model whose parts are in a folder or on the hub.
        networks: how it computes.
        latents: what it looks at.
        rows: of the network in one call.
        images: of a step.
        device: where it will be.
        scene: bytes that the scene and its optimizer take.
    """
    weights: Any = family.weights
    dtype = weight_dtype(networks.precision, device)
    texts = [weight_bytes(weights.build_empty(part), family.text_dtype(part, dtype)) for part in weights.encoders]
    denoiser: Any = weights.build_empty(weights.family.denoiser).to(dtype).eval().requires_grad_(False)
    vae: Any = weights.build_empty('vae').to(family.vae_dtype(dtype)).eval().requires_grad_(False)
    vae.decoder = None
    if networks.checkpoint_vae:
        vae.enable_gradient_checkpointing()
    predictor = family.predictor(denoiser)
    side = latent_side(family, predictor, latents)
    return MemoryPlan(
        text=max(texts),
        weights=weight_bytes(denoiser, dtype) + weight_bytes(vae, family.vae_dtype(dtype)),
        network=_network_bytes(predictor, side, rows, family.context_shape(), dtype),
        encoder=_encoder_bytes(ImageEncoder(vae), side * family.factor(), images),
        scene=scene,
    )


def latent_side(family: Family, predictor: Any, latents: LatentOptions) -> int:
    """Return the side of the latents: the model's own, or that of the picture that was asked for."""
    return predictor.latent_size if latents.image_size is None else latents.latent_size(family.factor())


def _network_bytes(predictor: Any, side: int, rows: int, context: tuple[int, int], dtype: torch.dtype) -> int:
    x = torch.empty(rows, predictor.channels, side, side, device=META)
    text = torch.empty(rows, *context, device=META, dtype=dtype)
    with torch.no_grad():
        try:
            return peak_bytes(lambda: predictor(x, torch.empty(rows, device=META), text))
        except (
            NotImplementedError,
            RuntimeError,
        ):  # it waits for values or more views: its widest layer is what it holds
            return 16 * rows * context[0] * context[1] * dtype.itemsize


def _encoder_bytes(encoder: ImageEncoder, side: int, images: int) -> int:
    image = torch.empty(images, 3, side, side, device=META, dtype=encoder.vae.dtype, requires_grad=True)

    def there_and_back() -> None:
        moments = encoder(image)
        torch.autograd.backward([moments], [torch.empty_like(moments)], inputs=[image])

    return peak_bytes(there_and_back)


def advise(
    plan: MemoryPlan, family: Family, networks: NetworkOptions, latents: LatentOptions, **sizes: Any
) -> list[str]:
    """Return the settings that would make a plan smaller, each with what it saves, the largest saving first."""
    side = latent_side(family, family.predictor(family.weights.build_empty(family.weights.family.denoiser)), latents)
    half = side * family.factor() // 2
    candidates = {
        'model.guidance.networks.checkpoint_vae=true': (dataclasses.replace(networks, checkpoint_vae=True), latents),
        'model.guidance.networks.precision=bf16': (dataclasses.replace(networks, precision='bf16'), latents),
    }
    if half % (2 * family.factor()) == 0:
        smaller = dataclasses.replace(latents, image_size=half)
        candidates[f'model.guidance.latents.image_size={half}'] = (networks, smaller)
    saved = {setting: plan.total - plan_memory(family, *given, **sizes).total for setting, given in candidates.items()}
    worth = sorted(((size, setting) for setting, size in saved.items() if size > _WORTH * plan.total), reverse=True)
    ways = [f'{setting} saves {size / _GIB:.1f} GiB' for size, setting in worth]
    return ways or ['no setting of the guidance would make it much smaller: choose a smaller model']


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that are free on a device; None where that cannot be told."""
    if device.type == 'cuda':
        return torch.cuda.mem_get_info(device)[0]
    try:
        found = re.search(r'MemAvailable:\s*(\d+) kB', Path('/proc/meminfo').read_text(encoding='utf-8'))
    except OSError:
        return None
    return int(found[1]) * 1024 if found and device.type == 'cpu' else None
