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

"""Khronos' own glTF validator finds nothing to say about any .glb: no error, no warning, no hint.

It is a package of npm, read from ``.node`` in the clone or from NODE_PATH: ``npm install --prefix .node gltf-validator``.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from analytic_fields import Model, orbit

from nemo_dreamfusion.export.assets import export_asset
from nemo_dreamfusion.export.mesh_files import Mesh, save_mesh

CODE = """
const fs = require('fs'), validator = require('gltf-validator');
Promise.all(process.argv.slice(1).map(f => validator.validateBytes(new Uint8Array(fs.readFileSync(f)))))
  .then(reports => console.log(JSON.stringify(reports.map(r => r.issues))));
"""
MODULES = Path(__file__).parents[2] / '.node' / 'node_modules'
ENVIRONMENT = {**os.environ, 'NODE_PATH': os.pathsep.join([str(MODULES), os.environ.get('NODE_PATH', '')])}


def run_node(code, *arguments):
    node = shutil.which('node') or 'node'
    return subprocess.run([node, '-e', code, *arguments], env=ENVIRONMENT, capture_output=True, text=True)


@pytest.fixture(scope='module')
def validate():
    """Return the validator's issues for files."""
    if shutil.which('node') is None or run_node("require('gltf-validator')").returncode:
        pytest.skip('npm install --prefix .node gltf-validator')

    def check(*paths):
        done = run_node(CODE, *map(str, paths))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return check


def test_nothing_is_wrong_with_any_glb(validate, tmp_path):
    options = dict(resolution=48, texture_size=256, orbit=orbit(views=2, size=24))
    about = {'prompt': 'a "sign" with <b>ümlauts</b>', 'seed': 3}
    with_map = export_asset(Model(), tmp_path / 'normal_map.glb', faces=600, about=about, **options)
    without = export_asset(Model(), tmp_path / 'texture.glb', faces=2000, **options)
    assert with_map.report['normal_map'] and not without.report['normal_map']
    mesh = without.mesh
    save_mesh(Mesh(mesh.vertices, mesh.faces, mesh.vertex_colors), tmp_path / 'colors.glb')
    save_mesh(Mesh(mesh.vertices, mesh.faces[:-7], mesh.vertex_colors, mesh.uv, mesh.texture), tmp_path / 'open.glb')
    issues = validate(*sorted(tmp_path.glob('*.glb')))
    assert len(issues) == 4
    assert [one['messages'] for one in issues] == [[]] * 4


def test_the_validator_finds_what_is_wrong(validate, tmp_path):
    export_asset(Model(), tmp_path / 'a.glb', resolution=32, texture_size=128, orbit=orbit(views=2, size=24))
    broken = (tmp_path / 'a.glb').read_bytes().replace(b'"TEXCOORD_0"', b'"TEXCOORD_1"')
    (tmp_path / 'a.glb').write_bytes(broken)
    (issues,) = validate(tmp_path / 'a.glb')
    assert issues['numErrors'] > 0
