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

"""Write pictures: single views, and the labelled strip of views around the object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from nemo_dreamfusion.parts.files import atomic_path
from nemo_dreamfusion.parts.types import CameraBatch

_MIN_SIDE = 128  # pixels; smaller views are enlarged, so that their labels fit
_FONT_SIZE = 13
_MARGIN = 6  # pixels around a label
_NAMES = {  # of the eight directions in azimuth, degrees
    **{0: 'front', 90: 'side', -90: 'side', 180: 'back'},
    **{45: 'front right', -45: 'front left', 135: 'back right', -135: 'back left'},
}


def to_uint8(image: Tensor | np.ndarray) -> np.ndarray:
    """Round values in [0, 1] of any shape to bytes, clipped at both ends, NaN black; bytes stay as they are."""
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        return image
    values = image.detach() if isinstance(image, Tensor) else torch.tensor(np.ascontiguousarray(image, np.float32))
    values = values.float().nan_to_num(nan=0.0, posinf=1.0, neginf=0.0).clamp(0, 1)
    return (values * 255 + 0.5).to(torch.uint8).cpu().numpy()


def save_still(image: Tensor | np.ndarray, path: str | Path) -> Path:
    """Write one image [H, W, 3] in [0, 1]; the file is whole or not there."""
    return _save(Image.fromarray(to_uint8(image)), path)


def save_rgba(image: Tensor | np.ndarray, path: str | Path) -> Path:
    """Write one image [H, W, 4] in [0, 1], straight alpha last; the file is whole or not there."""
    return _save(Image.fromarray(to_uint8(image), 'RGBA'), path)


def label_view(azimuth_deg: float, elevation_deg: float) -> str:
    """Name a view: ``front 0°``, ``front right 45°``, ``side 90°``, ``100°``, ``overhead 0°``.

    Left and right are those of a viewer in front of the object.
    """
    angle = _round_degrees(azimuth_deg)
    name = 'overhead' if elevation_deg > 60 else _NAMES.get(angle, '')
    return f'{name} {angle}°'.lstrip()


def save_strip(images: Tensor | np.ndarray, cameras: CameraBatch, path: str | Path) -> Path:
    """Write views [B, H, W, 3] side by side, each with its name below; the file is whole or not there."""
    angles = zip(cameras.azimuth_deg.tolist(), cameras.elevation_deg.tolist())
    return _save(draw_strip(to_uint8(images), [label_view(*pair) for pair in angles]), path)


def draw_strip(images: np.ndarray, labels: Sequence[str]) -> Image.Image:
    """Join views [B, H, W, 3] uint8 to one picture, with B labels in black on white below them."""
    count, height, width, _ = images.shape
    scale = max(1, -(-_MIN_SIDE // min(height, width)))
    font = ImageFont.load_default(_FONT_SIZE)
    band = _FONT_SIZE + 2 * _MARGIN
    strip = Image.new('RGB', (count * width * scale, height * scale + band), 'white')
    draw = ImageDraw.Draw(strip)
    for i, (image, label) in enumerate(zip(images, labels)):
        view = Image.fromarray(image).resize((width * scale, height * scale), Image.Resampling.BICUBIC)
        strip.paste(view, (i * width * scale, 0))
        middle = ((i + 0.5) * width * scale, height * scale + band / 2)
        draw.text(middle, label, fill='black', font=font, anchor='mm')
    return strip


def _round_degrees(angle_deg: float) -> int:
    """Round an angle to whole degrees; -180 becomes 180, and -0 becomes 0."""
    whole = round(angle_deg)
    return 180 if whole == -180 else whole


def _save(image: Image.Image, path: str | Path) -> Path:
    with atomic_path(path) as temporary:
        image.save(temporary)
    return Path(path)
