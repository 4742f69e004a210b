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

"""USDZ: what usd-core reads back, and that its validators find nothing."""

import subprocess
import sys
import zipfile

import numpy as np
import pytest
from analytic_fields import Model, orbit

from nemo_dreamfusion.export.assets import export_asset
from nemo_dreamfusion.export.mesh_files import Mesh, load_mesh, save_mesh
from nemo_dreamfusion.parts.optional import MissingPackageError

pxr = pytest.importorskip('pxr')


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A package with a texture and a normal map, its asset, and one with colours at the vertices."""
    folder = tmp_path_factory.mktemp('usdz')
    options = dict(resolution=48, faces=600, texture_size=256, orbit=orbit(views=2, size=24))
    asset = export_asset(Model(), folder / 'mesh.usdz', about={'prompt': 'a "sign"', 'seed': 3}, **options)
    mesh = asset.mesh
    plain = save_mesh(Mesh(mesh.vertices, mesh.faces, mesh.vertex_colors), folder / 'plain.usdz')
    return folder / 'mesh.usdz', asset, plain


def test_the_package_holds_the_mesh_its_texture_and_where_it_comes_from(made):
    from pxr import Usd, UsdGeom, UsdShade

    path, asset, _ = made
    stage = Usd.Stage.Open(str(path))
    assert UsdGeom.GetStageUpAxis(stage) == 'Y' and UsdGeom.GetStageMetersPerUnit(stage) == 1
    assert stage.GetDefaultPrim().GetName() == 'object'
    assert stage.GetRootLayer().customLayerData['prompt'] == 'a "sign"'
    mesh = UsdGeom.Mesh(stage.GetPrimAtPath('/object/mesh'))
    np.testing.assert_allclose(mesh.GetPointsAttr().Get(), asset.mesh.vertices, atol=1e-6)
    assert len(mesh.GetFaceVertexIndicesAttr().Get()) == 3 * asset.report['faces']
    place = np.array(UsdGeom.PrimvarsAPI(mesh).GetPrimvar('st').Get())
    np.testing.assert_allclose(place[:, 1], 1 - asset.mesh.uv[:, 1], atol=1e-6)
    surface = UsdShade.MaterialBindingAPI(mesh).ComputeBoundMaterial()[0].ComputeSurfaceSource()[0]
    assert {'diffuseColor', 'normal'} <= {one.GetBaseName() for one in surface.GetInputs()}


def test_the_archive_is_as_phones_want_it(made):
    with zipfile.ZipFile(made[0]) as archive:
        files = archive.infolist()
        assert files[0].filename == 'object.usdc' and {one.filename for one in files[1:]} == {
            'albedo.png',
            'normals.png',
        }
        assert all(one.compress_type == zipfile.ZIP_STORED for one in files)
        for one in files:  # where the bytes begin: after the local header, its name and its padding
            head = made[0].read_bytes()[one.header_offset : one.header_offset + 30]
            begin = (
                one.header_offset + 30 + int.from_bytes(head[26:28], 'little') + int.from_bytes(head[28:30], 'little')
            )
            assert begin % 64 == 0


def test_no_validator_of_usd_finds_anything(made):
    from pxr import Usd

    validation = pytest.importorskip('pxr.UsdValidation')
    validators = validation.ValidationRegistry().GetOrLoadAllValidators()
    assert len(validators) > 20
    for path in (made[0], made[2]):
        found = validation.ValidationContext(validators).Validate(Usd.Stage.Open(str(path)))
        assert [error.GetMessage() for error in found] == []


def test_without_the_package_one_line_says_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules['pxr'] = None; import numpy as np; from pathlib import Path\n"
        'from nemo_dreamfusion.export.mesh_files import Mesh, save_mesh\n'
        "save_mesh(Mesh(np.eye(3), np.array([[0, 1, 2]]), np.zeros((3, 3))), 'out.usdz')"
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert MissingPackageError.__name__ in done.stderr and "pip install 'nemo_dreamfusion[usd]'" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_usdz_is_not_read(made):
    with pytest.raises(ValueError, match='is written, not read'):
        load_mesh(made[0])
