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

"""Train from a seed to the weights folder: renders → autoencoder → latents → UNet and text encoder."""

from __future__ import annotations

import copy
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nemo_dreamfusion.modules.guidance.families.mvdream import VIEWS
from nemo_dreamfusion.parts.build import flatten
from nemo_dreamfusion.parts.checks import check_choice, check_positive, check_range, refuse
from nemo_dreamfusion.parts.files import check_writable, write_atomically
from nemo_dreamfusion.parts.images import compute_psnr
from nemo_dreamfusion.pocket.training import publish as publishing
from nemo_dreamfusion.pocket.training.dataset import Renders, make_renders
from nemo_dreamfusion.pocket.training.diffusion import DiffusionConfig, DiffusionTrainer
from nemo_dreamfusion.pocket.training.networks import load_pipeline, load_vae
from nemo_dreamfusion.pocket.training.recognition import Pictures, measure_recognition
from nemo_dreamfusion.pocket.training.vae import (
    SPAN,
    VaeConfig,
    compute_loss,
    encode,
    encode_all,
    reconstruct,
    train_vae,
)
from nemo_dreamfusion.pocket.world.draws import SHARES, check_shares
from nemo_dreamfusion.pocket.world.prompts import has_front
from nemo_dreamfusion.pocket.world.render import CameraRange

_PICTURES = 40  # of objects with a front, for the recognition of cameras
_FRESH_SEED = 1_000_003  # added to the seed: renders that no training saw
# What the model card's command leaves out: where the training ran and what it left, not what it made.
_ELSEWHERE = (
    'work_dir',
    'out',
    'workers',
    'threads',
    'device',
    'finish_at',
    'save_every',
    'publish_at',
    'publish_every',
)


@dataclass
class TrainConfig:
    """Everything that decides the result. Each stage resumes from what `work_dir` holds."""

    work_dir: str = 'pocket_training'
    out: str = ''  # the weights folder; empty: `work_dir`/weights. Name the folder that ships to replace what is in it
    start_from: str = ''  # a weights folder to go on from where `work_dir` holds no checkpoint yet
    keep: float = 0.0  # share of start_from's weights in what is published: the mean of both can guide better
    seed: int = 0
    prediction: str = 'epsilon'  # or flow: the UNet learns the velocity of a rectified flow
    views: int = 1  # or 4: sides of an object at once that attend to each other, each told its camera, as in MVDream
    size: int = 64
    images: int = 24000
    workers: int = 2
    threads: int = 2
    device: str = 'auto'  # of the networks: cpu, cuda, cuda:1 ...; auto: cuda where there is one. Renders use the CPU
    variants: int = 2  # backgrounds per render among the latents
    shares: dict[str, float] = field(default_factory=lambda: dict(SHARES))  # of the kinds of prompts, together 1
    cameras: CameraRange = field(default_factory=CameraRange)
    vae: VaeConfig = field(default_factory=VaeConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)

    def __post_init__(self) -> None:
        for name in ('size', 'images', 'workers', 'threads', 'variants'):
            check_positive(name, getattr(self, name), integer=True)
        check_range('keep', self.keep, 0, 1)
        check_shares(self.shares)
        check_choice('prediction', self.prediction, ('epsilon', 'flow'))
        check_choice('views', self.views, (1, VIEWS))
        if self.images < self.views:
            refuse('images', self.images, f'at least views, which is {self.views}')
        if self.diffusion.batch % self.views:
            refuse('diffusion.batch', self.diffusion.batch, f'a multiple of views, which is {self.views}')
        if self.keep and (not self.start_from or self.weights.resolve() == Path(self.start_from).resolve()):
            refuse('keep', self.keep, '0 without a start_from that stays as it is', 'Set start_from and another out.')
        if self.start_from and not (Path(self.start_from) / 'model_index.json').is_file():
            refuse('start_from', self.start_from, 'a Stable Diffusion folder (with model_index.json), or empty')

    @property
    def weights(self) -> Path:
        """Return the folder in which the model is published."""
        return Path(self.out) if self.out else Path(self.work_dir) / 'weights'

    @property
    def torch_device(self) -> torch.device:
        """Return the device of the networks.

        Raises:
            ValueError: for a device that torch does not have here.
        """
        cuda = torch.cuda.is_available()
        if not re.fullmatch(r'auto|cpu|cuda(:\d+)?' if cuda else 'auto|cpu', self.device):
            refuse(
                'device', self.device, 'auto, cpu, cuda or cuda:<number>' if cuda else 'auto or cpu (CUDA is not here)'
            )
        return torch.device(self.device if self.device != 'auto' else 'cuda' if cuda else 'cpu')


def train(config: TrainConfig) -> None:
    """Run, or resume, all stages.

    Raises:
        ValueError: for an option that cannot serve, a folder that cannot be written or replaced, or a `work_dir` that was
            made with another seed, size, cameras, prediction, number of views or shares.
    """
    device = config.torch_device
    torch.set_num_threads(config.threads)
    work = Path(config.work_dir)
    check_writable(work, 'work_dir')
    check_writable(config.weights, 'out')
    publishing.check_replaceable(config.weights)
    _check_same_data(config)
    _save_config(config)
    renders = _make_renders(work / 'renders', config, config.images, config.seed, config.shares)
    if config.start_from and not (work / 'vae.pt').exists():
        vae = load_vae(Path(config.start_from)).to(device)
    else:
        vae = train_vae(renders, work, config.vae, config.seed, device)
    latents = encode_all(vae, renders, work / f'latents_{config.vae.steps}.pt', config.variants, config.seed)
    fresh = _make_renders(work / 'fresh_renders', config, min(250, config.images), config.seed + _FRESH_SEED, SHARES)
    quality = _measure_autoencoder(vae, fresh, work, config)
    pictures = _encode_pictures(vae, fresh, config.seed)
    trainer = DiffusionTrainer(
        latents, renders, work, config.diffusion, config.seed, device, config.prediction, config.views
    )
    if config.start_from and trainer.step == 0:
        trainer.start_from(Path(config.start_from))
    earlier = _earlier_trainings(work, config)
    trainer.train(lambda current: _publish(current, vae, quality, pictures, earlier, config))
    (work / 'FINISH').unlink(missing_ok=True)


def _earlier_trainings(work: Path, config: TrainConfig) -> list[dict[str, Any]]:
    """Return the trainings of `start_from` as they were when this one began: it may publish into that very folder."""
    path = work / 'earlier_trainings.json'
    if not path.exists():
        found = publishing.read_trainings(Path(config.start_from)) if config.start_from else []
        write_atomically(path, json.dumps(found) + '\n')
    return json.loads(path.read_text(encoding='utf-8'))


def _make_renders(folder: Path, config: TrainConfig, images: int, seed: int, shares: Mapping[str, float]) -> Renders:
    return make_renders(
        folder,
        images=images,
        size=config.size,
        seed=seed,
        workers=config.workers,
        cameras=config.cameras,
        views=config.views,
        shares=shares,
    )


def _measure_autoencoder(vae: Any, fresh: Renders, work: Path, config: TrainConfig) -> dict[str, float]:
    """Return PSNR in dB and loss on renders that the training did not see; leave a sheet of them in the work folder."""
    images = fresh.compose(np.arange(len(fresh)), np.random.default_rng(config.seed))
    generator = torch.Generator().manual_seed(config.seed)
    parts = images.split(50)
    reconstructions = torch.cat([reconstruct(vae, part) for part in parts])
    with torch.inference_mode():
        losses = [compute_loss(vae, part, config.vae, generator)[0].item() * len(part) for part in parts]
    publishing.draw_comparison(images[:12], reconstructions[:12]).save(work / 'autoencoder.png')
    return {'psnr': compute_psnr(images, reconstructions, SPAN), 'vae_loss': sum(losses) / len(images)}


def _encode_pictures(vae: Any, fresh: Renders, seed: int) -> Pictures:
    """Encode the first renders of objects with a front, over random backgrounds."""
    index = np.array([i for i, prompt in enumerate(fresh.prompts) if has_front(prompt)][:_PICTURES], dtype=np.int64)
    latents = encode(vae, fresh.compose(index, np.random.default_rng(seed))).float()
    azimuth, elevation = (torch.from_numpy(angles[index]) for angles in (fresh.azimuth_deg, fresh.elevation_deg))
    return Pictures(latents, [fresh.prompts[i] for i in index], azimuth, elevation)


def _publish(
    trainer: DiffusionTrainer,
    vae: Any,
    quality: dict[str, float],
    pictures: Pictures,
    earlier: list[dict[str, Any]],
    config: TrainConfig,
) -> None:
    """Write the weights folder from the averaged model, and a line of the log."""
    cameras = {}
    if len(pictures):
        cameras = measure_recognition(trainer.average, trainer.tokenizer, trainer.schedule, pictures)
    facts = _collect_facts(trainer, config) | quality | {'recognition': cameras}
    this: dict[str, Any] = {'steps': trainer.step, 'batch': config.diffusion.batch, 'seed': config.seed}
    if config.keep:
        this['keep'] = config.keep
    if config.shares != SHARES:
        this['shares'] = config.shares
    trainings = [*earlier, this]
    average = trainer.average if not config.keep else _mix_weights(trainer.average, config)
    publishing.publish(
        config.weights,
        vae,
        average['text_encoder'],
        trainer.tokenizer,
        average['unet'],
        facts,
        trainings,
        config.prediction,
    )
    with open(Path(config.work_dir) / 'published.jsonl', 'a', encoding='utf-8') as log:
        log.write(json.dumps(facts | {'trainings': trainings}) + '\n')


def _mix_weights(average: nn.ModuleDict, config: TrainConfig) -> dict[str, nn.Module]:
    """Average the weights of `start_from` and of this training (Wortsman et al., https://arxiv.org/abs/2109.01903)."""
    earlier, mixed = load_pipeline(Path(config.start_from)), {}
    for name, network in average.items():
        mixed[name] = copy.deepcopy(network)
        before = getattr(earlier, name).state_dict()
        for key, value in mixed[name].state_dict().items():
            value.lerp_(before[key].to(value), config.keep)
    return mixed


def _collect_facts(trainer: DiffusionTrainer, config: TrainConfig) -> dict[str, Any]:
    return {
        'command': format_command(config, trainer.end),
        'images': config.images,
        'size': config.size,
        'cameras': asdict(config.cameras),
        'vae_batches': ', then '.join(f'{c.steps:,} steps of {c.batch}' for c in config.vae.cycles),
        'l1_weight': config.vae.l1_weight,
        'edge_weight': config.vae.edge_weight,
        'kl_weight': config.vae.kl_weight,
        'loss': trainer.loss,
    }


def format_command(config: TrainConfig, end: int) -> str:
    """Return the command line with what differs from the defaults and decides the result; `end` is the last step."""
    given = replace(config, diffusion=replace(config.diffusion, steps=end))
    defaults = {key: json.dumps(value) for key, value in flatten(asdict(TrainConfig()))}
    words = ['python', 'examples/train_pocket.py']
    for key, value in flatten(asdict(given)):
        if key.rpartition('.')[2] not in _ELSEWHERE and json.dumps(value) != defaults[key]:
            words.append(shlex.quote(f'{key}={value if isinstance(value, str) else json.dumps(value)}'))
    return ' '.join(words)


def _check_same_data(config: TrainConfig) -> None:
    """Refuse a `work_dir` that was made with another seed, size, cameras, prediction, views or shares."""
    path = Path(config.work_dir) / 'config.json'
    before = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}
    now = json.loads(json.dumps(asdict(config)))
    for name in ('seed', 'size', 'cameras', 'prediction', 'views', 'shares'):
        old = before.get(name, asdict(TrainConfig())[name])
        if before and old != now[name]:
            refuse(name, now[name], f'{old} as in {path}', 'Name another work_dir, or give it back.')


def _save_config(config: TrainConfig) -> None:
    """Keep the configuration beside the checkpoints."""
    write_atomically(Path(config.work_dir) / 'config.json', json.dumps(asdict(config), indent=2) + '\n')
