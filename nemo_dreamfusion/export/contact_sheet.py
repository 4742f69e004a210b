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

"""Put many objects on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from nemo_dreamfusion.parts.files import atomic_path

_WIDTH = 1024  # pixels of a row
_FONT_SIZE = 16
_BAND = 28  # pixels of the line above a row
_MARGIN = 8


def save_contact_sheet(rows: Sequence[tuple[str, Path]], path: str | Path) -> Path:
    """Write one row for each (text, picture file): the text above, the picture below, all scaled to one width.

    The file is whole or not there.
    """
    font = ImageFont.load_default(_FONT_SIZE)
    pictures = []
    for _, file in rows:
        with Image.open(file) as image:
            size = (_WIDTH, max(1, round(image.height * _WIDTH / image.width)))
            pictures.append(image.convert('RGB').resize(size, Image.Resampling.LANCZOS))
    sheet = Image.new('RGB', (_WIDTH, sum(_BAND + picture.height for picture in pictures)), 'white')
    draw, top = ImageDraw.Draw(sheet), 0
    for (text, _), picture in zip(rows, pictures):
        draw.text((_MARGIN, top + _BAND / 2), text, fill='black', font=font, anchor='lm')
        sheet.paste(picture, (0, top + _BAND))
        top += _BAND + picture.height
    with atomic_path(path) as temporary:
        sheet.save(temporary)
    return Path(path)
