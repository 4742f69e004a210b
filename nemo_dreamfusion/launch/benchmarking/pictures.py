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

"""Sheets of pictures: a line for each object, its true scene and what each row made of it side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from nemo_dreamfusion.launch.benchmarking.plan import Plan
from nemo_dreamfusion.launch.benchmarking.scoring import PICTURE, save_picture
from nemo_dreamfusion.parts.files import atomic_path
from nemo_dreamfusion.pocket.metrics import render_truth
from nemo_dreamfusion.pocket.world.prompts import normalize

FOLDER = 'leaderboard'
PER_SHEET = 12  # objects
_SIZE = (160, 80)  # pixels of an object's two views
_BAND = 18  # pixels of a line of text
_FONT_SIZE = 13
_GAP = 4


def save_pictures(plan: Plan, objects: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Write the sheets of the first seed; return what each shows by its path, relative to the benchmark's folder."""
    measured = {(one['row'], one['prompt']) for one in objects if one['seed'] == plan.seeds[0]}
    files = {
        (fit.row, fit.prompt): fit.folder / PICTURE
        for fit in plan.fits
        if fit.seed == plan.seeds[0] and (fit.row, fit.prompt) in measured
    }
    rows = [row for row in plan.rows if any(row == made for made, _ in files)]
    prompts = [prompt for prompt in plan.prompts if any(prompt == made for _, made in files)]
    sheets = {}
    for start in range(0, len(prompts), PER_SHEET):
        part = prompts[start : start + PER_SHEET]
        path = Path(FOLDER) / f'objects-{start + 1}-{start + len(part)}.png'
        _save_sheet(plan.out / path, part, rows, files, plan.scoring.resolution)
        sheets[path.as_posix()] = f'Objects {start + 1} to {start + len(part)}: {", ".join(part)}'
    return sheets


def _save_sheet(
    path: Path, prompts: Sequence[str], rows: Sequence[str], files: dict[tuple[str, str], Path], resolution: int
) -> None:
    font = ImageFont.load_default(_FONT_SIZE)
    width, height = _SIZE[0] + _GAP, _SIZE[1] + _BAND
    sheet = Image.new('RGB', (width * (len(rows) + 1), _BAND + height * len(prompts)), 'white')
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(['true scene', *rows]):
        draw.text((column * width + _GAP, _BAND / 2), name, fill='black', font=font, anchor='lm')
    with tempfile.TemporaryDirectory() as folder:
        for line, prompt in enumerate(prompts):
            top = _BAND + line * height
            draw.text((_GAP, top + _BAND / 2), prompt, fill='gray', font=font, anchor='lm')
            truth = Path(folder) / f'{line}.png'
            save_picture(truth, render_truth(normalize(prompt), resolution).image)
            for column, file in enumerate([truth, *(files.get((row, prompt)) for row in rows)]):
                if file is not None:
                    with Image.open(file) as picture:
                        small = picture.convert('RGB').resize(_SIZE, Image.Resampling.LANCZOS)
                    sheet.paste(small, (column * width, top + _BAND))
    with atomic_path(path) as temporary:
        sheet.save(temporary)
