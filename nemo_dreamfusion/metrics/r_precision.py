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

"""CLIP R-Precision: of all captions, is an object's own the one that its pictures fit best?

The measure is that of Park et al. (2021, Benchmark for Compositional Text-to-Image Synthesis), for 3-D by Dream Fields (Jain
et al., 2022, https://arxiv.org/abs/2112.01455): 153 captions of MSCOCO, one view from 30 degrees azimuth and 45 degrees
elevation. DreamFusion (Poole et al., 2022, appendix A.3, https://arxiv.org/abs/2209.14988) looks from 30 degrees elevation,
takes the mean over azimuths (it does not say how many) and two seeds of each prompt, and adds the geometry: pictures of the
shape alone, shaded without a texture, because an object can be a flat plate with the right picture on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemo_dreamfusion.metrics.base import Column, ImageTextEncoder, Judged, Metric, choose_device, read_pictures
from nemo_dreamfusion.metrics.captions import PUBLISHED_COUNT, Captions
from nemo_dreamfusion.metrics.orbit_pictures import KINDS, OrbitPictures

# DreamFusion, table 1: percent, (colour, geometry) of each model of CLIP; None: not given
TABLE_1: dict[str, dict[str, tuple[float, float | None]]] = {
    'Photographs of MSCOCO': {'b32': (77.1, None), 'b16': (79.1, None)},
    'Dream Fields, made anew for DreamFusion': {'b32': (78.6, 1.3)},
    'DreamFusion': {'b32': (75.1, 42.5), 'b16': (77.5, 46.6), 'l14': (79.7, 58.5)},
}


@dataclass(frozen=True)
class Retrieval:
    """Which caption V pictures fit best."""

    correct: Tensor  # [V] bool; a tie is wrong
    rank: Tensor  # [V] int64, of the own caption, from 1; ties count against it
    best: Tensor  # [V] int64, the caption that fits best but for the own
    own: Tensor  # [V], cosine with the own caption


def retrieve(similarities: Tensor, own: int) -> Retrieval:
    """Find the caption of each picture.

    Args:
        similarities: [V, N] of V pictures with N captions.
        own: the index of the right one.

    >>> retrieve(torch.tensor([[0.3, 0.2], [0.2, 0.2]]), own=0).correct
    tensor([ True, False])
    """
    mine = similarities[:, own]
    others = similarities.clone()
    others[:, own] = -torch.inf
    rank = 1 + (others >= mine[:, None]).sum(1)
    return Retrieval(rank == 1, rank, others.argmax(1), mine)


class CLIPRPrecision(Metric):
    """``metric=clip_r_precision``.

    Args:
        candidates: a file of captions, one a line, among which each object must find its own.
        encoder: the CLIP.
        azimuths: views around the object, from the front on; the score of an object is its mean over them.
        elevation_deg: of the views.
        size: pixels of a side.
        distance: from the origin, world units; None: that of the object's own test views.
        fov_deg: full angle of view; None: that of the object's own test views.
        device: ``auto``, ``cpu``, ``cuda``, ...

    Raises:
        ValueError: for a value out of range, or candidates that cannot be used.
    """

    name = 'clip_r_precision'
    columns = {
        'colour': Column('R-Precision of the views in colour', share=True),
        'geometry': Column('R-Precision of the views of the shape alone', share=True),
        'gap': Column('colour minus geometry', share=True),
        'score_colour': Column('100 times the cosine of picture and own caption (CLIP score)'),
        'score_geometry': Column('likewise, of the shape alone'),
    }

    def __init__(
        self,
        *,
        candidates: str,
        encoder: ImageTextEncoder,
        azimuths: int = 8,
        elevation_deg: float = 30.0,
        size: int = 224,
        distance: float | None = None,
        fov_deg: float | None = None,
        device: str = 'auto',
    ) -> None:
        self.device = choose_device('metric.device', device)
        self.captions = Captions(candidates)
        self.encoder = encoder
        self.pictures = OrbitPictures(azimuths, elevation_deg, size, distance, fov_deg)

    @property
    def judge(self) -> ImageTextEncoder:
        return self.encoder

    def render_settings(self) -> dict[str, Any]:
        return self.pictures.settings()

    def score_settings(self) -> dict[str, Any]:
        return {'candidates': len(self.captions), 'candidates_sha256': self.captions.digest()}

    def check_prompts(self, prompts: Sequence[str]) -> None:
        self.captions.check_holds(prompts)

    def notes(self) -> list[str]:
        views = (
            f'{self.pictures.azimuths} views from {self.pictures.elevation_deg:g}° elevation, white behind the object'
        )
        note = self.captions.note()
        return [
            f'Each object is seen in {views}; its score is the share of them whose own caption fits better than any other '
            f'of {len(self.captions)} (a tie is wrong). Chance is {100 / len(self.captions):.2g} %.',
            *([note] if note else []),
        ]

    def render(self, model: Any, folder: Path) -> dict[str, Any]:
        return self.pictures.render(model.to(self.device), folder)

    def prepare(self) -> None:
        self.encoder.prepare(self.device)
        self._texts = self.encoder.encode_texts(self.captions.texts)

    def score(self, prompt: str, folder: Path, record: Mapping[str, Any]) -> Judged:
        own = self.captions.index(prompt)
        values: dict[str, float] = {}
        details: dict[str, Any] = {}
        for kind in KINDS:
            files = [folder / view['file'] for view in record['views'] if view['kind'] == kind]
            similarities = self.encoder.encode_images(read_pictures(files)) @ self._texts.T
            found = retrieve(similarities.cpu(), own)
            values[kind] = found.correct.float().mean().item()
            values[f'score_{kind}'] = 100 * found.own.mean().item()
            mistaken = Counter(self.captions.texts[i] for i in found.best[~found.correct].tolist())
            details[kind] = {
                'correct': found.correct.tolist(),
                'rank': found.rank.tolist(),
                'taken_for': dict(mistaken.most_common()),
            }
        values['gap'] = values['colour'] - values['geometry']
        return Judged(values, _remark(details), details)

    def published(self) -> list[str]:
        if len(self.captions) != PUBLISHED_COUNT:
            return []
        lines = ['| published (DreamFusion, table 1) | CLIP | colour | geometry |', '|---|---|---|---|']
        for method, by_model in TABLE_1.items():
            for model, (colour, geometry) in by_model.items():
                lines.append(f'| {method} | {model} | {colour} % | {"" if geometry is None else f"{geometry} %"} |')
        return lines


def _remark(details: Mapping[str, Any]) -> str:
    """Say what most pictures in colour, or else of the shape, were taken for."""
    for kind, words in (('colour', 'taken for'), ('geometry', 'shape taken for')):
        if taken_for := details[kind]['taken_for']:
            return f'{words}: {next(iter(taken_for))}'
    return ''
