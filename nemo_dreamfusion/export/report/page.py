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

"""The report of a run: one page that opens from the disk and asks no network for anything.

Everything is in the file: pictures, video, the mesh and the program that shows it (model-viewer, Apache-2.0, package data).
The page's content security policy lets the browser load nothing else and run no other script, whatever a prompt holds.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nemo_dreamfusion.export.report.curves import draw_curve
from nemo_dreamfusion.package_info import __version__
from nemo_dreamfusion.parts.build import flatten
from nemo_dreamfusion.parts.files import write_atomically

_EMBEDDED = 24 * 2**20  # bytes; larger files stay beside the page and are linked
_TYPES = {'.png': 'image/png', '.webp': 'image/webp', '.mp4': 'video/mp4', '.glb': 'model/gltf-binary'}
_VIDEOS = {
    'turntable.mp4': 'one turn',
    'relit.mp4': 'the light travels, the camera stands',
    'depth.mp4': 'depth, near is bright',
    'normals.mp4': 'normals as colours',
}
_LICENCE = '. The object is shown by model-viewer (Apache-2.0).'
_SCORES = {  # of nemo_dreamfusion.pocket.metrics
    'iou': 'silhouettes: intersection over union, 1 is best',
    'psnr_db': 'images: PSNR in dB, more is better',
    'view_accuracy': 'views that face the right way, 1 is best',
}
_OWN_SECTIONS = ('prompt', 'diagnosis', 'mesh', 'last_step', 'scores')  # of metrics.json


@dataclass(frozen=True)
class RunFacts:
    """What a report says of a run, beside the pictures and the mesh in its folder."""

    prompt: str
    seed: int | None
    metrics: Mapping[str, Any]  # of metrics.json
    changed: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)  # key -> (set here, default)
    curves: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)  # name -> (step, value)
    warnings: Sequence[str] = ()


def write_report(facts: RunFacts, folder: str | Path) -> Path:
    """Write ``report.html`` into a run's folder over what is there; the file is whole or not there.

    Args:
        facts: of the run.
        folder: with ``preview.png``, ``turntable.mp4``, ``mesh.glb``; what is missing is left out.
    """
    folder = Path(folder)
    path = folder / 'report.html'
    has_mesh = (folder / 'mesh.glb').is_file()
    scripts = [read_asset('model-viewer.min.js'), read_asset('report.js')] if has_mesh else []
    body = '\n'.join(_sections(facts, folder))
    write_atomically(path, page(facts.prompt, body, scripts))
    return path


def page(title: str, body: str, scripts: Sequence[str] = ()) -> str:
    """Return a whole page whose policy allows these scripts and embedded or neighbouring files, and nothing else.

    Args:
        title: as plain text.
        body: as HTML; texts in it are escaped already.
        scripts: JavaScript modules.
    """
    hashes = ' '.join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    allowed = f"{hashes} 'wasm-unsafe-eval'" if scripts else "'none'"  # model-viewer unpacks meshes by WebAssembly
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src 'self' file: data: blob:; media-src 'self' file: data:; connect-src data: blob:; worker-src blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    modules = ''.join(f'<script type="module">{script}</script>\n' for script in scripts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<style>\n{read_asset("report.css")}</style></head>\n'
        f'<body>\n{body}\n<footer>nemo_dreamfusion {escape(__version__)}{_LICENCE if scripts else ""}</footer>\n'
        f'{modules}</body></html>\n'
    )


@cache
def read_asset(name: str) -> str:
    """Return a file of ``assets/``."""
    return files(__package__).joinpath('assets', name).read_text(encoding='utf-8')


def table(rows: Mapping[str, Any], head: Sequence[str] = ()) -> str:
    """Return a table of names and values, which may be tuples of one value for each further column."""
    lines = ['<table>']
    if head:
        lines.append('<tr>' + ''.join(f'<th>{escape(name)}</th>' for name in head) + '</tr>')
    for name, value in rows.items():
        cells = value if isinstance(value, tuple) else (value,)
        lines.append(f'<tr><th>{escape(str(name))}</th>' + ''.join(map(_cell, cells)) + '</tr>')
    return '\n'.join([*lines, '</table>'])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f'<td class="number">{value:.4g}</td>'
    if isinstance(value, int) and not isinstance(value, bool):
        return f'<td class="number">{value}</td>'
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f'<td>{escape(text)}</td>'


def _sections(facts: RunFacts, folder: Path) -> Iterator[str]:
    metrics = facts.metrics
    yield f'<h1>{escape(facts.prompt)}</h1>'
    yield f'<p class="facts">{escape(_summary(facts))}</p>'
    said = [text for text in (metrics.get('diagnosis'), *facts.warnings) if text]
    yield ''.join(f'<p class="warning">{escape(text)}</p>' for text in dict.fromkeys(said))
    yield '<div class="stage">' + _viewer(folder) + ''.join(_videos(folder)) + '</div>'
    yield _strip(folder)
    scores = metrics.get('scores')
    if scores:
        named = {_SCORES.get(name, name): value for name, value in scores.items() if value is not None}
        yield '<h2>Against the true shape of the prompt</h2>' + table(named)
    drawn = [draw_curve(name, *zip(*points)) for name, points in facts.curves.items() if _is_shown(name, points)]
    if drawn:
        yield '<h2>The fit</h2><div class="curves">' + '\n'.join(drawn) + '</div>'
        yield '<p class="note">The loss of score distillation does not measure progress; look at the pictures.</p>'
    if metrics.get('mesh'):
        yield '<h2>Mesh</h2>' + table(dict(flatten(metrics['mesh'])))
    figures = {key: value for key, value in metrics.items() if key not in _OWN_SECTIONS}
    if figures:
        yield '<h2>Figures</h2>' + table(dict(flatten(figures)))
    heads = ('setting', 'here', 'default')
    changed = table(dict(facts.changed), heads) if facts.changed else '<p>All settings are the default.</p>'
    yield '<h2>Settings that differ from the default</h2>' + changed
    yield f'<p class="note">Files: {", ".join(_links(folder))}</p>'


def _is_shown(name: str, points: Sequence[tuple[int, float]]) -> bool:
    """Leave out times, terms that are there unweighted, and what never was anything but 0."""
    return not ('timing' in name or name.endswith('_weighted')) and any(value != 0 for _, value in points)


def _summary(facts: RunFacts) -> str:
    parts = [] if facts.seed is None else [f'seed {facts.seed}']
    if 'steps' in facts.metrics:
        parts.append(f'{facts.metrics["steps"]} steps')
    if 'fit_seconds' in facts.metrics:
        parts.append(f'{facts.metrics["fit_seconds"]:.0f} s')
    return ', '.join(parts)


def _viewer(folder: Path) -> str:
    mesh = _embed(folder / 'mesh.glb')
    if mesh is None:
        return '<figure><p>There is no mesh: see the warnings, and mesh_resolution.</p></figure>'
    poster = next((p for p in (_embed(folder / 'stills' / 'rgba_000.png'), _embed(folder / 'preview.png')) if p), '')
    sliders = ''.join(
        f'<label>{label} <input id="{name}" type="range" min="{low}" max="{high}" step="{step}" value="{value}"></label>'
        for name, label, low, high, step, value in (
            ('azimuth', 'light from', -180, 180, 5, 40),
            ('elevation', 'height', -90, 90, 5, 40),
            ('ambient', 'ambient', 0, 1, 0.05, 0.6),
        )
    )
    others = (
        '<label>background <input id="backdrop" type="color" value="#ffffff"></label>'
        '<label><input id="turning" type="checkbox"> turn</label>'
    )
    return (
        f'<figure><model-viewer src="{mesh}" camera-controls touch-action="pan-y" interaction-prompt="none" '
        'camera-orbit="0deg 75deg auto" shadow-intensity="0.3" alt="the object, to turn">'
        f'<img slot="poster" src="{poster}" alt="the object"></model-viewer>'
        f'<div class="controls">{sliders}{others}</div>'
        '<figcaption>Drag to turn, scroll to come nearer. The mesh; the videos show the field.</figcaption></figure>'
    )


def _videos(folder: Path) -> Iterator[str]:
    for name, caption in _VIDEOS.items():
        source = _embed(folder / name)
        if source:
            yield (
                f'<figure><video src="{source}" autoplay muted loop controls playsinline></video>'
                f'<figcaption>{escape(caption)}</figcaption></figure>'
            )


def _strip(folder: Path) -> str:
    source = _embed(folder / 'preview.png')
    return f'<img class="strip" src="{source}" alt="views around the object">' if source else ''


def _embed(path: Path) -> str | None:
    """Return a file as a data URI, or as a link where it is too large; None where it is missing."""
    if not path.is_file():
        return None
    if path.stat().st_size > _EMBEDDED:
        return quote(path.name)
    return f'data:{_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}'


def _links(folder: Path) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in (*_TYPES, '.nemo', '.yaml', '.json') and not path.name.startswith('.'):
            yield f'<a href="{quote(path.name)}">{escape(path.name)}</a>'
