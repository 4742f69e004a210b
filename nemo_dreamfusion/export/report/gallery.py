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

"""A page over the objects of a list of prompts: pictures and videos lie beside it and load when they come into view."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nemo_dreamfusion.export.report.page import page, table
from nemo_dreamfusion.parts.files import write_atomically

_SHOWN = {'status': 'status', 'steps': 'steps', 'fit_seconds': 'fit, s', 'remark': 'remark'}
_SCORES = {  # of nemo_dreamfusion.pocket.metrics and launch.surface_scores
    'iou': 'silhouettes, IoU',
    'psnr_db': 'pictures, PSNR in dB',
    'view_accuracy': 'views that face the right way',
    'f_score_2': 'surface, F-score at 2 %',
    'f_score_1': 'surface, F-score at 1 %',
    'chamfer': 'surface, Chamfer distance',
    'normal_consistency': 'surface, normals',
    'surface_delta_e': 'surface, colours in ΔE2000',
    'components': 'parts',
    'watertight': 'closed',
}
_LINKED = ('report.html', 'mesh.glb', 'turntable.mp4', 'DreamFusion.nemo')


def write_gallery(jobs: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """Write one card for each job; the file is whole or not there.

    Args:
        jobs: each with ``prompt``, ``status`` and the ``folder`` of its run ('' where there is none), and perhaps
            ``steps``, ``fit_seconds``, ``remark`` and ``scores``.
        path: of the page; links to the folders are relative to it.
    """
    path = Path(path)
    cards = '\n'.join(_card(job, path.parent) for job in jobs)
    body = f'<h1>{len(jobs)} object{"s" * (len(jobs) != 1)}</h1>\n<div class="cards">\n{cards}\n</div>'
    write_atomically(path, page('Gallery', body))
    return path


def _card(job: Mapping[str, Any], base: Path) -> str:
    folder = Path(job['folder']) if job['folder'] else None
    parts = [f'<h2>{escape(job["prompt"])}</h2>']
    if folder:
        parts.append(_pictures(folder, base, job['prompt']))
    parts.append(table({**_named(job, _SHOWN), **_named(job.get('scores') or {}, _SCORES)}))
    if folder:
        links = (f'<a href="{_link(folder / name, base)}">{name}</a>' for name in _LINKED if (folder / name).is_file())
        parts.append(f'<p class="note">{", ".join(links)}</p>')
    return '<article class="card">' + '\n'.join(parts) + '</article>'


def _named(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the values that there are, under the names that a reader sees."""
    return {name: values[key] for key, name in names.items() if values.get(key) not in (None, '')}


def _pictures(folder: Path, base: Path, prompt: str) -> str:
    """Return the turning object where there is a picture of it, else the strip, and a link from it to the report."""
    picture = next((folder / n for n in ('turntable.webp', 'preview.png') if (folder / n).is_file()), None)
    if picture is None:
        return ''
    image = f'<img class="views" loading="lazy" src="{_link(picture, base)}" alt="{escape(prompt)}">'
    report = folder / 'report.html'
    return f'<a href="{_link(report, base)}">{image}</a>' if report.is_file() else image


def _link(path: Path, base: Path) -> str:
    """Return the relative URL of a file."""
    return quote(Path(os.path.relpath(path.resolve(), base.resolve())).as_posix())
