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

"""Write the surface of a finished object, with its texture, as a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from nemo_dreamfusion.export.assets import describe, export_asset
from nemo_dreamfusion.launch.configuration import prepare_config
from nemo_dreamfusion.models.dreamfusion import DreamFusion


@dataclass(frozen=True)
class ExportResult:
    """What :func:`export` made."""

    path: Path
    vertices: int
    faces: int
    report: dict[str, Any]  # of nemo_dreamfusion.export.assets.export_asset: atlas, agreement with the renders, ...


def export(cfg: DictConfig) -> ExportResult:
    """Write the mesh of ``cfg.restore_from_path`` to ``cfg.mesh_fname``.

        export(load_config(overrides=['restore_from_path=DreamFusion.nemo', 'mesh_fname=duck.glb']))

    Raises:
        ValueError: for settings that cannot work, an archive that cannot be restored, or a scene without a surface.
    """
    cfg = prepare_config(cfg, 'export-mesh')
    model = DreamFusion.restore_from(cfg.restore_from_path, map_location='cpu')
    asset = export_asset(
        model,
        cfg.mesh_fname,
        resolution=cfg.mesh_resolution,
        faces=cfg.mesh_faces,
        texture_size=cfg.texture_size,
        about=describe(model),
    )
    counts = len(asset.mesh.vertices), len(asset.mesh.faces)
    return ExportResult(Path(cfg.mesh_fname).resolve(), *counts, report=asset.report)
