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

"""Compare an edited object with what it was and with the true scene of what it shall be, over the 16 views."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_dreamfusion.parts.images import compute_psnr, compute_silhouette_iou
from nemo_dreamfusion.pocket.metrics.colors import FILLED, delta_e_2000, linear_rgb_to_lab, remove_white
from nemo_dreamfusion.pocket.world.render import Render

SAME = 0.01  # largest difference of a channel between two true scenes where nothing changes
MARGIN = (
    2  # pixels around what changes that do not count as untouched: a fit's edges are not quite where the true ones are
)


@dataclass(frozen=True)
class EditViews:
    """The same views of the object and of the true scenes, before and after; albedo over white, linear RGB in [0, 1]."""

    before: Render  # the object that was edited
    after: Render
    true_before: Render
    true_after: Render
    changed: Tensor  # [V, H, H] bool, where the true scene after shows what is not in the one before


def score_edit(views: EditViews) -> dict[str, float | None]:
    """Score an edit.

    Returns:
        The scores by name; None where there is no such pixel.

        - ``changed_delta_e``: mean CIEDE2000 to the true scene over the pixels of ``changed`` that both fill.
        - ``kept_psnr_db``: to the object before, over the filled pixels that it does not change.
        - ``iou_before``: silhouette intersection over union with the object before; for where the shape must stay.
        - ``iou_truth``: with the true scene after.
    """
    kept = find_kept(views.true_before, views.true_after)
    after, truth = views.after, views.true_after
    both = views.changed & (after.opacity > FILLED) & (truth.opacity > FILLED)
    lab, true_lab = (linear_rgb_to_lab(remove_white(r.image, r.opacity)[both].numpy()) for r in (after, truth))
    seen, before = after.image[kept], views.before.image[kept]
    return {
        'changed_delta_e': float(delta_e_2000(lab, true_lab).mean()) if len(lab) else None,
        'kept_psnr_db': compute_psnr(seen, before) if len(seen) else None,
        'iou_before': compute_silhouette_iou(after.opacity, views.before.opacity),
        'iou_truth': compute_silhouette_iou(after.opacity, truth.opacity),
    }


def find_kept(before: Render, after: Render) -> Tensor:
    """Return which filled pixels of true scenes are the same in both: [V, H, H] bool."""
    difference = torch.maximum((before.image - after.image).abs().amax(-1), (before.opacity - after.opacity).abs())
    near = F.max_pool2d((difference >= SAME).float()[:, None], 2 * MARGIN + 1, stride=1, padding=MARGIN)[:, 0] > 0
    return ~near & (before.opacity > FILLED) & (after.opacity > FILLED)
