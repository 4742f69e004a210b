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

"""Write a mesh as .usdz, which phones of Apple show in a room (the one file that imports usd-core).

Of Apple's rules: y up, metres, one default prim, a UsdPreviewSurface with PNG textures, a binary layer first in a package
that is not compressed. https://openusd.org/release/spec_usdz.html
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nemo_dreamfusion.export.geometry import smooth_normals
from nemo_dreamfusion.export.glb import ROUGHNESS, Paint, png_bytes
from nemo_dreamfusion.parts.files import atomic_path
from nemo_dreamfusion.parts.optional import require


def save_usdz(
    vertices: np.ndarray,
    faces: np.ndarray,
    look: Paint | np.ndarray,
    path: Path,
    *,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write the package; it is whole or not there.

    Args:
        vertices: [V, 3], y up, the front at +z; a unit is a metre.
        faces: [F, 3], counter-clockwise seen from outside.
        look: a texture, or display colours at the vertices [V, 3] in [0, 1].
        path: of the .usdz.
        about: what the layer's custom data say: texts and numbers.

    Raises:
        MissingPackageError: when usd-core is not installed.
    """
    _pxr('Usd')
    with tempfile.TemporaryDirectory(prefix='nemo-dreamfusion-') as folder, atomic_path(path) as temporary:
        layer = Path(folder, 'object.usdc')
        _write_layer(layer, vertices, faces, look, about or {})
        package = Path(folder, 'object.usdz')
        if not _pxr('UsdUtils').CreateNewARKitUsdzPackage(str(layer), str(package)):
            raise OSError(f'{path} was not written: usd-core made no package.')
        temporary.write_bytes(package.read_bytes())
    return path


def _pxr(name: str) -> Any:
    """Return a module of usd-core."""
    require('pxr', extra='usd', reason='a .usdz is written with usd-core', instead='mesh_fname=mesh.glb')
    return importlib.import_module(f'pxr.{name}')


def _write_layer(
    layer: Path, vertices: np.ndarray, faces: np.ndarray, look: Paint | np.ndarray, about: Mapping[str, Any]
) -> None:
    sdf, usd, geom = _pxr('Sdf'), _pxr('Usd'), _pxr('UsdGeom')
    stage = usd.Stage.CreateNew(str(layer))
    geom.SetStageUpAxis(stage, geom.Tokens.y)
    geom.SetStageMetersPerUnit(stage, 1.0)
    root = geom.Xform.Define(stage, '/object')
    stage.SetDefaultPrim(root.GetPrim())
    simple = {key: value for key, value in about.items() if isinstance(value, str | int | float)}
    stage.GetRootLayer().customLayerData = simple
    mesh = geom.Mesh.Define(stage, '/object/mesh')
    points = vertices.astype(np.float32)
    mesh.CreatePointsAttr(_vectors(points))
    mesh.CreateExtentAttr(_vectors(np.stack([points.min(0), points.max(0)])))
    mesh.CreateFaceVertexCountsAttr([3] * len(faces))
    mesh.CreateFaceVertexIndicesAttr(_pxr('Vt').IntArray.FromNumpy(faces.astype(np.int32).reshape(-1)))
    mesh.CreateNormalsAttr(_vectors(smooth_normals(vertices, faces)))
    mesh.SetNormalsInterpolation(geom.Tokens.vertex)
    mesh.CreateSubdivisionSchemeAttr(geom.Tokens.none)
    primvars = geom.PrimvarsAPI(mesh)
    if isinstance(look, Paint):
        place = np.stack([look.uv[:, 0], 1 - look.uv[:, 1]], -1).astype(np.float32)  # counted from the bottom row up
        values = primvars.CreatePrimvar('st', sdf.ValueTypeNames.TexCoord2fArray, geom.Tokens.vertex)
        values.Set(_pxr('Vt').Vec2fArray.FromNumpy(place))
        _bind_texture(stage, mesh, look, layer.parent)
    else:
        values = primvars.CreatePrimvar('displayColor', sdf.ValueTypeNames.Color3fArray, geom.Tokens.vertex)
        values.Set(_vectors(look.astype(np.float32)))
        _bind(stage, mesh)
    stage.GetRootLayer().Save()


def _vectors(values: np.ndarray) -> Any:
    return _pxr('Vt').Vec3fArray.FromNumpy(np.ascontiguousarray(values, np.float32))


def _bind(stage: Any, mesh: Any) -> Any:
    """Give the mesh a matt material; return its surface."""
    sdf, shade = _pxr('Sdf'), _pxr('UsdShade')
    material = shade.Material.Define(stage, '/object/matt')
    surface = shade.Shader.Define(stage, '/object/matt/surface')
    surface.CreateIdAttr('UsdPreviewSurface')
    surface.CreateInput('roughness', sdf.ValueTypeNames.Float).Set(ROUGHNESS)
    surface.CreateInput('metallic', sdf.ValueTypeNames.Float).Set(0.0)
    material.CreateSurfaceOutput().ConnectToSource(surface.ConnectableAPI(), 'surface')
    shade.MaterialBindingAPI.Apply(mesh.GetPrim()).Bind(material)
    return surface


def _bind_texture(stage: Any, mesh: Any, paint: Paint, folder: Path) -> None:
    """Write the textures into the folder and connect them to the mesh's material."""
    sdf, shade = _pxr('Sdf'), _pxr('UsdShade')
    surface = _bind(stage, mesh)
    reader = shade.Shader.Define(stage, '/object/matt/place')
    reader.CreateIdAttr('UsdPrimvarReader_float2')
    reader.CreateInput('varname', sdf.ValueTypeNames.String).Set('st')
    place = reader.CreateOutput('result', sdf.ValueTypeNames.Float2)

    def sample(name: str, image: np.ndarray, space: str) -> Any:
        (folder / f'{name}.png').write_bytes(png_bytes(image))
        texture = shade.Shader.Define(stage, f'/object/matt/{name}')
        texture.CreateIdAttr('UsdUVTexture')
        texture.CreateInput('file', sdf.ValueTypeNames.Asset).Set(f'./{name}.png')
        texture.CreateInput('st', sdf.ValueTypeNames.Float2).ConnectToSource(place)
        texture.CreateInput('sourceColorSpace', sdf.ValueTypeNames.Token).Set(space)
        for axis in ('wrapS', 'wrapT'):
            texture.CreateInput(axis, sdf.ValueTypeNames.Token).Set('clamp')
        return texture

    albedo = sample('albedo', paint.texture, 'sRGB').CreateOutput('rgb', sdf.ValueTypeNames.Float3)
    surface.CreateInput('diffuseColor', sdf.ValueTypeNames.Color3f).ConnectToSource(albedo)
    if paint.normal_map is not None:
        gf, lean = _pxr('Gf'), sample('normals', paint.normal_map, 'raw')
        lean.CreateInput('scale', sdf.ValueTypeNames.Float4).Set(gf.Vec4f(2, 2, 2, 1))
        lean.CreateInput('bias', sdf.ValueTypeNames.Float4).Set(gf.Vec4f(-1, -1, -1, 0))
        normal = lean.CreateOutput('rgb', sdf.ValueTypeNames.Float3)
        surface.CreateInput('normal', sdf.ValueTypeNames.Normal3f).ConnectToSource(normal)
