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

"""Differences of colour as an eye sees them: CIEDE2000 between linear RGB albedos, over the pixels that both fill."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nemo_dreamfusion.parts import colors

FILLED = 0.9  # opacity from which a pixel counts as filled


def linear_rgb_to_lab(rgb: np.ndarray) -> np.ndarray:
    """Convert linear sRGB [..., 3] in [0, 1] to CIE L*a*b* under D65 (CIE 15:2004).

    >>> linear_rgb_to_lab(np.ones(3)).round(6) + 0
    array([100.,   0.,   0.])
    """
    return colors.linear_rgb_to_lab(torch.tensor(np.ascontiguousarray(rgb, np.float64))).numpy()


def delta_e_2000(lab: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return CIEDE2000 of two colours [..., 3] in L*a*b*: [...]; about 1 is just seen, 10 is another shade.

    Sharma, Wu and Dalal, The CIEDE2000 color-difference formula, 2005; the numbers of its equations in the comments.
    """
    (l1, a1, b1), (l2, a2, b2) = (np.moveaxis(np.asarray(c, np.float64), -1, 0) for c in (lab, other))
    mean_chroma = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2  # 2, 3
    g = 0.5 * (1 - np.sqrt(mean_chroma**7 / (mean_chroma**7 + 25.0**7)))  # 4
    a1, a2 = (1 + g) * a1, (1 + g) * a2  # 5
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)  # 6
    h1, h2 = (np.degrees(np.arctan2(b, a)) % 360 for a, b in ((a1, b1), (a2, b2)))  # 7
    grey = c1 * c2 == 0
    turn = np.where(grey, 0, (h2 - h1 + 180) % 360 - 180)  # 10
    turn = np.where(~grey & (turn == -180) & (h2 > h1), 180, turn)
    d_light, d_chroma = l2 - l1, c2 - c1  # 8, 9
    d_hue = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2))  # 11
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2  # 12, 13
    hue = _mean_hue(h1, h2, grey)
    s_light = 1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2)  # 18
    s_chroma = 1 + 0.045 * chroma  # 19
    s_hue = 1 + 0.015 * chroma * _hue_weight(hue)  # 20
    rotation = -np.sin(np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2))))  # 16, 21
    rotation = rotation * 2 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7))  # 17
    x, y, z = d_light / s_light, d_chroma / s_chroma, d_hue / s_hue
    return np.sqrt(np.maximum(x * x + y * y + z * z + rotation * y * z, 0))  # 22


def _mean_hue(h1: np.ndarray, h2: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """Return the mean of two hues in degrees, on the shorter way round (equation 14)."""
    total = h1 + h2
    far = np.abs(h1 - h2) > 180
    mean = np.where(far, np.where(total < 360, total + 360, total - 360), total) / 2
    return np.where(grey, total, mean)


def _hue_weight(hue: np.ndarray) -> np.ndarray:
    """Return T of equation 15; hues in degrees."""
    terms = ((-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.20, 4, -63))
    return 1 + sum(weight * np.cos(np.radians(times * hue + shift)) for weight, times, shift in terms)


def compute_color_difference(images: Tensor, opacity: Tensor, truth: Tensor, true_opacity: Tensor) -> float | None:
    """Return the mean CIEDE2000 over the pixels that both fill: of each view, then over the views.

    Args:
        images: albedo over white, linear RGB in [0, 1], [V, H, H, 3].
        opacity: [V, H, H].
        truth: as ``images``.
        true_opacity: as ``opacity``.

    Returns:
        None when no pixel is filled in both.
    """
    both = (opacity > FILLED) & (true_opacity > FILLED)
    lab, true_lab = (
        linear_rgb_to_lab(remove_white(image, alpha).numpy())
        for image, alpha in ((images, opacity), (truth, true_opacity))
    )
    difference = torch.from_numpy(delta_e_2000(lab, true_lab))
    means = [difference[view][both[view]].mean().item() for view in range(len(both)) if both[view].any()]
    return sum(means) / len(means) if means else None


def remove_white(image: Tensor, opacity: Tensor) -> Tensor:
    """Return the albedo [V, H, H, 3] of what stands over white."""
    alpha = opacity[..., None].clamp_min(FILLED)
    return ((image - (1 - alpha)) / alpha).clamp(0, 1)
