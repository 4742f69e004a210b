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

from nemo_dreamfusion.export.assets import describe, export_asset
from nemo_dreamfusion.export.report.gallery import write_gallery
from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.parts.checks import check_positive, refuse

logger = logging.getLogger('nemo_dreamfusion.launch.gallery')

PAGE = 'objects.html'
_PICTURES = ('turntable.webp', 'preview.png')  # the first that a run has


def make_gallery(
    runs: str, out: str = 'docs/gallery', *, faces: int = 6000, texture_size: int = 384, limit_mb: float = 8.0
) -> Path:
    """Write ``out/objects.html`` and, for each run, a folder with its turning picture and a light mesh.

    Args:
        runs: the folder whose folders are runs, such as ``results``; a run without ``DreamFusion.nemo`` is left out.
        out: the folder of the page; what an earlier call left there is replaced.
        faces: triangles of each mesh at most.
        texture_size: texels of a side.
        limit_mb: megabytes of everything together.

    Raises:
        ValueError: for a folder without finished runs, or when the page becomes larger than the limit.
    """
    check_positive('limit_mb', limit_mb)
    folders = sorted(path.parent for path in Path(runs).glob('*/DreamFusion.nemo'))
    if not folders:
        refuse('runs', runs, 'a folder with finished runs in it, each with its DreamFusion.nemo')
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


def _add(run: Path, folder: Path, faces: int, texture_size: int) -> dict[str, Any]:
    """Copy a run's picture, export a light mesh, and return what the page says of it."""
    model = DreamFusion.restore_from(str(run / 'DreamFusion.nemo'), map_location='cpu')
    folder.mkdir(parents=True, exist_ok=True)
    picture = next((run / name for name in _PICTURES if (run / name).is_file()), None)
    if picture:
        shutil.copyfile(picture, folder / picture.name)
    try:
        export_asset(model, folder / 'mesh.glb', faces=faces, texture_size=texture_size, about=describe(model))
    except ValueError as error:
        logger.warning('%s has no mesh: %s', run.name, error)
    record = run / 'metrics.json'
    metrics = json.loads(record.read_text(encoding='utf-8')) if record.is_file() else {}
    shown = {key: metrics.get(key) for key in ('steps', 'fit_seconds', 'scores')}
    return {'prompt': model.prompts.prompt, 'folder': str(folder), **shown}
