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

"""Defects of NeMo's DreamFusion (docs/defects.md) that concern a YAML file or another package, and no part by itself."""

from pathlib import Path

import pytest
import trimesh
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from nemo_dreamfusion.export.mesh_files import Mesh, save_mesh
from nemo_dreamfusion.modules.guidance.base import Guidance
from nemo_dreamfusion.parts.build import build

CONF = Path(__file__).resolve().parents[1] / 'nemo_dreamfusion' / 'conf'


@pytest.mark.parametrize('choice', ['sd_nemo', 'sd_trt'])
def test_both_guidances_are_made_from_their_files(choice, tmp_path):
    """NeMo's could not be constructed: a missing argument, an attribute read off a method, a typo in the YAML."""
    with initialize_config_dir(str(CONF), version_base=None):
        node = compose('dreamfusion', overrides=[f'model/guidance={choice}']).model.guidance
    (tmp_path / 'sd.nemo').touch()
    given = {'checkpoint': str(tmp_path / 'sd.nemo'), 'plan_dir': str(tmp_path)}
    for key in given.keys() & node.keys():
        node[key] = given[key]
    if choice == 'sd_trt':
        node.engine = 'onnxruntime'
    assert isinstance(build('model.guidance', OmegaConf.to_container(node, resolve=True), Guidance), Guidance)


@pytest.mark.parametrize('suffix', ['.glb', '.obj', '.ply'])
def test_meshes_are_written_by_the_trimesh_of_today(suffix, tmp_path):
    triangle = trimesh.creation.box(extents=(1, 2, 3))
    mesh = Mesh(triangle.vertices.astype('float32'), triangle.faces, triangle.vertices * 0 + 0.5)
    read = trimesh.load(save_mesh(mesh, tmp_path / f'box{suffix}'), force='mesh')
    assert read.extents == pytest.approx([1, 2, 3])
