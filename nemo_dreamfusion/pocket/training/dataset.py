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

"""Make the training set, renders of the world with their prompts and views, shard by shard from a seed; resumable."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from nemo_dreamfusion.parts.files import atomic_path
from nemo_dreamfusion.pocket.world import prompts as world
from nemo_dreamfusion.pocket.world.draws import SHARES, draw_prompt
from nemo_dreamfusion.pocket.world.render import CameraRange, look_at_origin, render

_SHARD = 250  # images of one file


@dataclass(frozen=True)
class Renders:
    """All renders in memory: N images of S pixels a side."""

    rgba: np.ndarray  # [N, S, S, 4] uint8, colour already multiplied by the opacity
    prompts: list[str]  # N, without view suffix
    azimuth_deg: np.ndarray  # [N] float32
    elevation_deg: np.ndarray  # [N] float32

    def __len__(self) -> int:
        return len(self.prompts)

    def compose(self, index: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        """Put the images of `index` [n] over random backgrounds: [n, 3, S, S] in [−1, 1]."""
        rgba = torch.from_numpy(self.rgba[index]).float().div_(255).permute(0, 3, 1, 2)
        background = torch.from_numpy(draw_backgrounds(len(index), rng))[:, :, None, None]
        return (rgba[:, :3] + (1 - rgba[:, 3:]) * background).mul_(2).sub_(1).contiguous()


def draw_backgrounds(count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw solid colours [count, 3]: 30 % white, 30 % gray, 40 % any colour. They teach what belongs to the object."""
    colors = rng.random((count, 3), dtype=np.float32)
    choice = rng.random(count)
    colors[choice < 0.6] = colors[choice < 0.6, :1]
    colors[choice < 0.3] = 1
    return colors


def draw_view(rng: np.random.Generator, cameras: CameraRange) -> tuple[float, float, float]:
    """Draw azimuth and elevation in degrees, and distance in world units."""
    overhead = rng.random() < cameras.overhead_share
    elevation = rng.uniform(*(cameras.overhead_deg if overhead else cameras.elevation_deg))
    return rng.uniform(*cameras.azimuth_deg), elevation, rng.uniform(*cameras.distance)


_Render = tuple[np.ndarray, str, float, float]  # rgba [S, S, 4] uint8, prompt, azimuth and elevation in degrees


def _render_ring(
    rng: np.random.Generator, size: int, cameras: CameraRange, views: int, shares: Mapping[str, float]
) -> list[_Render]:
    """Render one object, over black, from one side or several evenly spaced ones, each under a light of its own."""
    prompt, (azimuth, elevation, distance) = draw_prompt(rng, shares), draw_view(rng, cameras)
    turns = (360.0 / views * view for view in range(views))
    return [_render_view(rng, size, cameras, prompt, (azimuth + turn, elevation, distance)) for turn in turns]


def _render_view(
    rng: np.random.Generator, size: int, cameras: CameraRange, prompt: str, view: tuple[float, float, float]
) -> _Render:
    azimuth, elevation, distance = view
    pose = look_at_origin(*(torch.tensor([v], dtype=torch.float32) for v in (azimuth, elevation, distance)))
    ambient = 1.0 if rng.random() < 0.5 else rng.uniform(0.3, 0.7)
    light = pose[0, :3, 3] + torch.tensor(rng.normal(size=3) * 1.2, dtype=torch.float32)
    light = torch.nn.functional.normalize(light, dim=0)[None]
    out = render(
        world.build_scene(prompt),
        pose,
        size=size,
        fov_y_deg=cameras.fov_y_deg,
        ambient=ambient,
        light=light,
        background=torch.zeros(3),
    )
    rgba = torch.cat([out.image[0], out.opacity[0, ..., None]], -1).mul(255).round().clamp(0, 255)
    return rgba.byte().numpy(), prompt, azimuth, elevation


def _render_shard(
    shard: int,
    folder: Path,
    images: int,
    size: int,
    seed: int,
    cameras: CameraRange,
    views: int,
    shares: Mapping[str, float],
) -> None:
    """Write one shard file, unless it is there."""
    path = folder / f'shard_{shard:04d}.npz'
    if path.exists():
        return
    rng = np.random.default_rng([seed, shard])
    count = min(_SHARD, images - shard * _SHARD)
    with torch.inference_mode():
        made = [one for _ in range(count // views) for one in _render_ring(rng, size, cameras, views, shares)]
    rgba, prompts, *angles = zip(*made, strict=True)
    azimuth_deg, elevation_deg = np.array(angles, dtype=np.float32)
    with atomic_path(path) as temporary:
        np.savez(
            temporary,
            rgba=np.stack(rgba),
            prompts=np.array(prompts),
            azimuth_deg=azimuth_deg,
            elevation_deg=elevation_deg,
        )


def make_renders(
    folder: Path,
    *,
    images: int,
    size: int,
    seed: int,
    workers: int,
    cameras: CameraRange,
    views: int = 1,
    shares: Mapping[str, float] = SHARES,
) -> Renders:
    """Render what is still missing of the training set, then load it all.

    Args:
        folder: where the shards are kept.
        images: how many renders in all.
        size: pixels of a side.
        seed: of the world; shard k depends on (seed, k) alone.
        workers: processes.
        cameras: where they stand.
        views: of one object, evenly around it, next to each other; what is left of a file of 250 is left out.
        shares: how often each kind of prompt is drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    full, rest = divmod(images, _SHARD)
    shards = range(full + (rest >= views))  # each has an object or more
    job = partial(
        _render_shard,
        folder=folder,
        images=images,
        size=size,
        seed=seed,
        cameras=cameras,
        views=views,
        shares=dict(shares),
    )
    missing = [shard for shard in shards if not (folder / f'shard_{shard:04d}.npz').exists()]
    if missing and workers > 1:
        context = multiprocessing.get_context('spawn')
        with context.Pool(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(tqdm(pool.imap_unordered(job, missing), total=len(missing), desc=f'renders, {_SHARD} each'))
    else:
        for shard in tqdm(missing, desc=f'renders, {_SHARD} each'):
            job(shard)
    files = [np.load(folder / f'shard_{shard:04d}.npz') for shard in shards]
    rgba, prompts, azimuth_deg, elevation_deg = (
        np.concatenate([file[name] for file in files]) for name in ('rgba', 'prompts', 'azimuth_deg', 'elevation_deg')
    )
    return Renders(rgba=rgba, prompts=prompts.tolist(), azimuth_deg=azimuth_deg, elevation_deg=elevation_deg)
