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

"""Find an object among the true scenes of other prompts, those that differ from its own by one word included."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

import torch
from torch import Tensor

from nemo_dreamfusion.parts.checks import check_range
from nemo_dreamfusion.pocket.metrics.views import FOV_Y_DEG, VIEWS_DEG, build_cameras
from nemo_dreamfusion.pocket.world import prompts as world
from nemo_dreamfusion.pocket.world.render import render

SIZE = 32  # pixels of the compared views
GALLERY = 200
_NEAR = 0.5  # at most this share of the gallery are near misses
_POOL_COUNT = 4  # draws a place of the gallery, some of which are no scene or there already


def is_scene(prompt: str) -> bool:
    """Tell whether the world has a scene of this prompt."""
    try:
        world.build_scene(prompt)
    except ValueError:
        return False
    return True


def list_near_misses(prompt: str) -> list[str]:
    """Return the prompts of the world that differ from a prompt by one word, or by their order.

    >>> near = list_near_misses('a red cube')
    >>> 'a blue cube' in near, 'a red sphere' in near, 'a blue sphere' in near, 'a red cube' in near
    (True, True, False, False)
    """
    own = world.normalize(prompt)
    return [one for one in dict.fromkeys(_one_word_changed(own)) if one != own and is_scene(one)]


def _one_word_changed(text: str) -> Iterator[str]:
    nouns = (*world.SHAPES, *world.OBJECT_NAMES)
    for group in (tuple(world.COLORS), nouns, world.SIZES, world.RELATIONS):
        for found in re.finditer(rf'\b({"|".join(sorted(group, key=len, reverse=True))})\b', text):
            for word in group:
                yield _fix_articles(text[: found.start()] + word + text[found.end() :])
    for found in re.finditer(r'\ban? ', text):  # another colour for what has none
        yield from (_fix_articles(f'{text[: found.end()]}{color} {text[found.end() :]}') for color in world.COLORS)
    for found in re.finditer(rf'\b({"|".join((*world.COLORS, *world.SIZES))}) ', text):  # one word less
        yield _fix_articles(text[: found.start()] + text[found.end() :])
    halves = re.split(rf' ({"|".join(world.RELATIONS)}) ', text)
    if len(halves) == 3:
        yield f'{halves[2]} {halves[1]} {halves[0]}'


def _fix_articles(text: str) -> str:
    return re.sub(r'\ban? (?=([a-z]))', lambda found: 'an ' if found[1] in 'aeiou' else 'a ', text)


@lru_cache(maxsize=256)
def choose_gallery(prompt: str, count: int = GALLERY, seed: int = 0) -> tuple[str, ...]:
    """Return ``count`` prompts, the first of which is ``prompt``: near misses up to one half, the rest drawn by seed.

    The draw does not depend on the prompt, so that galleries of one seed share most of their scenes.
    """
    check_range('the gallery', count, 2, 2000, integer=True)
    own = world.normalize(prompt)
    near = list_near_misses(own)
    random.Random(f'{seed} {own}').shuffle(near)
    chosen = [own, *near[: int(_NEAR * count)]]
    rest = (one for one in _draw_pool(_POOL_COUNT * count, seed) if one not in set(chosen))
    chosen += [one for one, _ in zip(rest, range(count - len(chosen)))]
    return tuple(chosen)


@lru_cache(maxsize=8)
def _draw_pool(count: int, seed: int) -> tuple[str, ...]:
    """Return named objects, single shapes and pairs of the world in an order of the seed, without repeats."""
    generator = random.Random(seed)

    def shape() -> str:
        return world.add_article(f'{generator.choice([*world.COLORS])} {generator.choice([*world.SHAPES])}')

    drawn = list(map(world.add_article, world.OBJECT_NAMES))
    drawn += [shape() for _ in range(count // 4)] + [f'{shape()} on top of {shape()}' for _ in range(count // 2)]
    drawn = list(dict.fromkeys(drawn))
    generator.shuffle(drawn)
    return tuple(drawn)


@lru_cache(maxsize=1024)  # 200 kB each
def _render_small(prompt: str) -> Tensor:
    with torch.no_grad():
        return render(world.build_scene(prompt), build_cameras(), size=SIZE, fov_y_deg=FOV_Y_DEG, ambient=1.0).image


def compute_retrieval_rank(images: Tensor, prompt: str, scenes: Iterable[str]) -> int:
    """Return 1 when none of the true scenes is nearer to the object than its own, by mean squared error.

    Args:
        images: 16 views [16, H, H, 3] as in ``VIEWS_DEG``, albedo on white; compared at 32 pixels.
        prompt: of the object.
        scenes: prompts among which it is sought, such as ``choose_gallery(prompt)``.
    """
    if len(images) != len(VIEWS_DEG):
        raise ValueError(f'{len(images)} images: expected one of each of the {len(VIEWS_DEG)} VIEWS_DEG.')
    small = torch.nn.functional.interpolate(
        images.detach().cpu().float().movedim(-1, 1), (SIZE, SIZE), mode='area'
    ).movedim(1, -1)

    def error(scene: str) -> float:
        return (small - _render_small(scene)).square().mean().item()

    own = world.normalize(prompt)
    own_error = error(own)
    return 1 + sum(error(other) < own_error for other in {*map(world.normalize, scenes)} - {own})
