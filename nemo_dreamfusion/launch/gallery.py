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

"""Make a page over finished runs that is small enough to publish: each object turning, with its scores and a mesh."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from nemo_dreamfusion.export.agreement import orbit_around
from nemo_dreamfusion.export.animation import save_animation
from nemo_dreamfusion.export.assets import describe, export_asset
from nemo_dreamfusion.export.fast_views import FastViews, spread
from nemo_dreamfusion.export.report.gallery import write_gallery
from nemo_dreamfusion.launch.reporting import score_known
from nemo_dreamfusion.launch.run_folder import ARCHIVE
from nemo_dreamfusion.launch.surface_scores import score_mesh
from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.parts.checks import check_positive, refuse

logger = logging.getLogger('nemo_dreamfusion.launch.gallery')

PAGE = 'objects.html'
PICTURE = 'turntable.webp'
FRAMES, SIDE, FPS = 36, 224, 12  # of a picture that a run does not have: pixels of a side, frames a second


def make_gallery(
    runs: str, out: str = 'docs/gallery', *, faces: int = 6000, texture_size: int = 384, limit_mb: float = 8.0
) -> Path:
    """Write ``out/objects.html`` and, for each run, a folder with its turning picture and a light mesh.

    A run needs no more than its ``DreamFusion.nemo``: what else is missing is made of it. An object whose true shape is
    known is scored against it.

    Args:
        runs: the folder whose folders are runs, such as ``results``, or that of a benchmark of one row and one seed; a run
            without ``DreamFusion.nemo`` is left out.
        out: the folder of the page; what an earlier call left there is replaced.
        faces: triangles of each mesh at most.
        texture_size: texels of a side.
        limit_mb: megabytes of everything together.

    Raises:
        ValueError: for a folder without finished runs, or when the page becomes larger than the limit.
    """
    check_positive('limit_mb', limit_mb)
    folders = _find_runs(Path(runs))
    target = Path(out)
    jobs = [_add(folder, target / folder.name, faces, texture_size) for folder in folders]
    kept = {folder.name for folder in folders}
    for old in target.iterdir():
        if old.is_dir() and old.name not in kept and (old / 'mesh.glb').is_file():
            shutil.rmtree(old)  # of an earlier call
    page = write_gallery(jobs, target / PAGE)
    size_mb = sum(path.stat().st_size for path in target.rglob('*') if path.is_file()) / 1e6
    if size_mb > limit_mb:
        raise ValueError(
            f'{out} has {size_mb:.1f} MB, more than limit_mb = {limit_mb:g}: set faces or texture_size lower.'
        )
    return page


def _find_runs(runs: Path) -> list[Path]:
    of_benchmark = sorted(runs.glob('fits/*/seed-*'))
    if len(of_benchmark) > 1:
        refuse('runs', str(runs), f'one of {", ".join(map(str, of_benchmark))}: it is a benchmark of several')
    folders = sorted(path.parent for path in (of_benchmark or [runs])[0].glob(f'*/{ARCHIVE}'))
    if not folders:
        refuse('runs', str(runs), f'a folder with finished runs in it, each with its {ARCHIVE}')
    return folders


def _add(run: Path, folder: Path, faces: int, texture_size: int) -> dict[str, Any]:
    """Copy a run's picture, export a light mesh, and return what the page says of it."""
    model = DreamFusion.restore_from(str(run / ARCHIVE), map_location='cpu')
    folder.mkdir(parents=True, exist_ok=True)
    if (run / PICTURE).is_file():
        shutil.copyfile(run / PICTURE, folder / PICTURE)
    else:
        _turn(model, folder / PICTURE)
    try:
        export_asset(model, folder / 'mesh.glb', faces=faces, texture_size=texture_size, about=describe(model))
    except ValueError as error:
        logger.warning('%s has no mesh: %s', run.name, error)
    record = run / 'metrics.json'
    metrics = json.loads(record.read_text(encoding='utf-8')) if record.is_file() else {}
    shown = {key: metrics.get(key) for key in ('steps', 'fit_seconds')}
    scores = {**_score(model), **(metrics.get('scores') or {})}
    return {'prompt': model.prompts.prompt, 'folder': str(folder), **shown, 'scores': scores}


def _turn(model: DreamFusion, path: Path) -> None:
    """Write the object as it turns."""
    orbit = orbit_around(model.nerf.bound).resized(FRAMES, SIDE)
    views = FastViews(model, FRAMES * SIDE**2, spread(orbit))
    save_animation((views.render(orbit[i]).image[0] for i in range(FRAMES)), path, fps=FPS)


def _score(model: DreamFusion) -> dict[str, Any]:
    """Return how near views and mesh are to the true ones; {} where those are not known."""
    found = score_known(model)
    return {**found, **score_mesh(model, model.prompts.prompt)} if found else {}
