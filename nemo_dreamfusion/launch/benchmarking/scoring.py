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

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nemo_dreamfusion.data.cameras import cameras_from_orbit
from nemo_dreamfusion.launch.benchmarking.plan import Fit, Scoring
from nemo_dreamfusion.launch.surface_scores import score_surface
from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.parts.files import atomic_path, write_atomically
from nemo_dreamfusion.pocket.metrics import DISTANCE, FOV_Y_DEG, VIEWS_DEG, render_truth, score
from nemo_dreamfusion.pocket.metrics.colors import compute_color_difference
from nemo_dreamfusion.pocket.metrics.retrieval import compute_retrieval_rank
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
    azimuth_deg, elevation_deg = torch.tensor(VIEWS_DEG, dtype=torch.float32).T
    same, size = torch.ones(len(azimuth_deg)), scoring.resolution
    seen = model.render_cameras(
        cameras_from_orbit(azimuth_deg, elevation_deg, same * DISTANCE, same * FOV_Y_DEG, size, size)
    )
    images, opacity = seen.image.detach().cpu().float(), seen.opacity[..., 0].detach().cpu().float()
    scores = score_views(images, opacity, fit.prompt, scoring) | score_surface(
        model, fit.prompt, resolution=scoring.mesh_resolution, points=scoring.points
    )
    run = json.loads((fit.folder / 'metrics.json').read_text(encoding='utf-8'))
    scores |= {'fit_seconds': run.get('fit_seconds'), 'steps': run.get('steps')}
    save_picture(images, fit.folder / PICTURE)
    record = {'scoring': asdict(scoring), 'scores': scores}
    write_atomically(fit.folder / SCORES, json.dumps(record, indent=2) + '\n')
    return scores


def score_views(images: Tensor, opacity: Tensor, prompt: str, scoring: Scoring) -> dict[str, Any]:
    """Score what the 16 cameras see: images [16, H, H, 3] of the albedo on white, opacity [16, H, H]."""
    truth = render_truth(normalize(prompt), images.shape[1])
    seen = score(images, opacity, prompt, suite_prompts=())
    return {
        'iou': seen['iou'],
        'psnr_db': seen['psnr_db'],
        'view_accuracy': seen['view_accuracy'],
        'delta_e': compute_color_difference(images, opacity, truth.image, truth.opacity),
        'retrieval_rank': compute_retrieval_rank(images, prompt, scoring.gallery),
    }


def save_picture(images: Tensor, path: Path) -> None:
    """Write the views of ``SHOWN_DEG`` side by side."""
    shown = torch.cat([images[VIEWS_DEG.index(view)] for view in SHOWN_DEG], 1)
    with atomic_path(path) as temporary:
        Image.fromarray(to_picture(shown)).save(temporary)


def to_picture(image: Tensor) -> np.ndarray:
    """Return an image [H, W, 3] in [0, 1] as bytes."""
    return (image.clamp(0, 1).numpy() * 255).round().astype(np.uint8)
