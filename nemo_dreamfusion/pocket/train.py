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

"""The training from a seed to the weights folder: renders → autoencoder → latents → UNet and text encoder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nemo_dreamfusion.pocket import publish as publishing
from nemo_dreamfusion.pocket.components import load_vae
from nemo_dreamfusion.pocket.files import replacing
from nemo_dreamfusion.pocket.render import CameraRange
from nemo_dreamfusion.pocket.renders import Renders, make_renders
from nemo_dreamfusion.pocket.train_diffusion import DiffusionConfig, DiffusionTrainer
from nemo_dreamfusion.pocket.train_vae import VaeConfig, encode_all, psnr, reconstruct, train_vae

_FRESH_SEED = 1_000_003  # added to the seed: renders that no training saw


@dataclass
class TrainConfig:
    """Everything that decides the result. Each stage resumes from what `work_dir` holds."""

    work_dir: str = 'pocket_training'
    out: str = 'nemo_dreamfusion/pocket/weights'
    start_from: str = ''  # a weights folder to go on from where `work_dir` holds no checkpoint yet
    seed: int = 0
    size: int = 64
    images: int = 24000
    workers: int = 2
    threads: int = 2
    variants: int = 2  # backgrounds per render among the latents
    cameras: CameraRange = field(default_factory=CameraRange)
    vae: VaeConfig = field(default_factory=VaeConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)


def train(config: TrainConfig) -> None:
    """Run, or resume, all stages."""
    torch.set_num_threads(config.threads)
    work = Path(config.work_dir)
    renders = _renders(work / 'renders', config, config.images, config.seed)
    if config.start_from and not (work / 'vae.pt').exists():
        vae = load_vae(Path(config.start_from))
    else:
        vae = train_vae(renders, work, config.vae, config.seed)
    latents = encode_all(vae, renders, work / f'latents_{config.vae.steps}.pt', config.variants, config.seed)
    quality = _autoencoder_quality(vae, work, config)
    trainer = DiffusionTrainer(latents, renders.captions, work, config.diffusion, config.seed)
    if config.start_from and trainer.step == 0:
        trainer.start_from(Path(config.start_from))
    trainer.train(lambda current: _publish(current, vae, quality, config))
    (work / 'FINISH').unlink(missing_ok=True)


def _renders(folder: Path, config: TrainConfig, images: int, seed: int) -> Renders:
    return make_renders(
        folder, images=images, size=config.size, seed=seed, workers=config.workers, cameras=config.cameras
    )


def _autoencoder_quality(vae: nn.Module, work: Path, config: TrainConfig) -> float:
    """PSNR in dB on renders that the training did not see; a sheet of them lies in the work folder."""
    fresh = _renders(work / 'fresh_renders', config, min(250, config.images), config.seed + _FRESH_SEED)
    images = fresh.composed(np.arange(len(fresh)), np.random.default_rng(config.seed))
    reconstructions = torch.cat([reconstruct(vae, part) for part in images.split(50)])
    publishing.comparison_sheet(images[:12], reconstructions[:12]).save(work / 'autoencoder.png')
    return psnr(images, reconstructions)


def _publish(trainer: DiffusionTrainer, vae: nn.Module, psnr_db: float, config: TrainConfig) -> None:
    """Write the weights folder from the averaged model, and a line of the log."""
    facts = _facts(trainer, psnr_db, config)
    average = trainer.average
    publishing.publish(
        Path(config.out), vae, average['text_encoder'], trainer.tokenizer, average['unet'], facts, config.seed
    )
    with open(Path(config.work_dir) / 'published.jsonl', 'a') as log:
        log.write(json.dumps(facts) + '\n')


def _facts(trainer: DiffusionTrainer, psnr_db: float, config: TrainConfig) -> dict[str, Any]:
    return {
        'images': config.images,
        'size': config.size,
        'near': config.cameras.distance[0],
        'far': config.cameras.distance[1],
        'fov': round(config.cameras.fov_y_deg),
        'vae_batches': ', then '.join(f'{c.steps:,} steps of {c.batch}' for c in config.vae.cycles),
        'psnr': psnr_db,
        'step': trainer.step,
        'batch': config.diffusion.batch,
        'loss': trainer.loss,
    }


def save_config(config: TrainConfig) -> None:
    """Keep the configuration beside the checkpoints."""
    with replacing(Path(config.work_dir) / 'config.json') as temporary:
        temporary.write_text(json.dumps(asdict(config), indent=2) + '\n')
