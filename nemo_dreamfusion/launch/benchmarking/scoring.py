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

"""Measure a finished object against the true scene of its prompt, once, and keep the numbers beside it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from nemo_dreamfusion.export.stills import to_uint8
from nemo_dreamfusion.launch.benchmarking.plan import Fit, Scoring
from nemo_dreamfusion.launch.surface_scores import score_surface
from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.parts.files import atomic_path, write_atomically
from nemo_dreamfusion.pocket.metrics import VIEWS_DEG, render_object, render_truth, score
from nemo_dreamfusion.pocket.metrics.colors import compute_color_difference
from nemo_dreamfusion.pocket.metrics.retrieval import choose_gallery, compute_retrieval_rank
from nemo_dreamfusion.pocket.world.prompts import normalize

SCORES, PICTURE = 'scores.json', 'views.png'  # in the folder of a fit
SHOWN_DEG = ((45, 10), (225, 40))  # azimuth and elevation of the views in the picture


def read_scores(fit: Fit, scoring: Scoring) -> dict[str, Any] | None:
    """Return what an earlier call measured in this way; None where there is nothing."""
    try:
        record = json.loads((fit.folder / SCORES).read_text(encoding='utf-8'))
        return record['scores'] if record['scoring'] == asdict(scoring) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def measure(fit: Fit, archive: Path, scoring: Scoring) -> dict[str, Any]:
    """Measure a finished object, and keep its scores and two of its views in its folder.

    Raises:
        ValueError: when the archive cannot be restored.
        OSError: when the files cannot be written.
    """
    model = DreamFusion.restore_from(str(archive), map_location='cpu')
    seen = render_object(model, scoring.resolution)
    scores = score_views(seen.image, seen.opacity, fit.prompt, scoring) | score_surface(
        model, fit.prompt, resolution=scoring.mesh_resolution, points=scoring.points
    )
    run = json.loads((fit.folder / 'metrics.json').read_text(encoding='utf-8'))
    scores |= {'fit_seconds': run.get('fit_seconds'), 'steps': run.get('steps')}
    save_picture(fit.folder / PICTURE, seen.image)
    record = {'scoring': asdict(scoring), 'scores': scores}
    write_atomically(fit.folder / SCORES, json.dumps(record, indent=2) + '\n')
    return scores


def score_views(images: Tensor, opacity: Tensor, prompt: str, scoring: Scoring) -> dict[str, Any]:
    """Score what the 16 cameras see: images [16, H, H, 3] of the albedo on white, opacity [16, H, H]."""
    truth = render_truth(normalize(prompt), images.shape[1])
    return {
        **score(images, opacity, prompt),
        'delta_e': compute_color_difference(images, opacity, truth.image, truth.opacity),
        'retrieval_rank': compute_retrieval_rank(images, prompt, choose_gallery(normalize(prompt), scoring.gallery)),
    }


def save_picture(path: Path, *objects: Tensor) -> None:
    """Write the views of ``SHOWN_DEG`` of one or more objects, each [16, H, H, 3], side by side."""
    shown = torch.cat([images[VIEWS_DEG.index(view)] for images in objects for view in SHOWN_DEG], 1)
    with atomic_path(path) as temporary:
        Image.fromarray(to_uint8(shown)).save(temporary)
