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

"""Write a finished field as an ONNX model: positions to density and colour, for programs without torch."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from nemo.core.classes.exportable import Exportable
from nemo.core.neural_types import NeuralType, VoidType
from torch import Tensor, nn

from nemo_dreamfusion.export.mesh import HasField
from nemo_dreamfusion.export.surface import device_of, drawn_surface
from nemo_dreamfusion.modules.nerf.base import RadianceField
from nemo_dreamfusion.parts.checks import first_line, refuse
from nemo_dreamfusion.parts.files import atomic_path

OPSET = 18  # the first with BitwiseXor, which the grid hashes with


class ExportableField(nn.Module, Exportable):
    """A copy of a radiance field that follows NeMo's Exportable: positions [N, 3] -> density [N], albedo [N, 3].

    Exporting freezes what it exports, so that the field itself must stay out of it.
    """

    def __init__(self, field: RadianceField) -> None:
        super().__init__()
        self.field = copy.deepcopy(field)

    @property
    def input_types(self) -> dict[str, NeuralType]:
        return {'positions': NeuralType(('B', 'ANY'), VoidType())}

    @property
    def output_types(self) -> dict[str, NeuralType]:
        return {'density': NeuralType(('B',), VoidType()), 'albedo': NeuralType(('B', 'ANY'), VoidType())}

    def dynamic_shapes_for_export(self, use_dynamo: bool = False) -> dict[str, dict[int, str]]:
        """Allow any number of points."""
        return {name: {0: 'N'} for name in ('positions', 'density', 'albedo')}

    def input_example(self) -> tuple[Tensor]:
        """Return points of the box, on the field's device."""
        bound, device = self.field.bound, device_of(self.field)
        return (torch.linspace(-bound, bound, 15, device=device).view(5, 3),)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the density per world unit and the albedo in [0, 1]."""
        out = self.field(positions)
        return out.density, out.albedo


def export_field(model: HasField, path: str | Path) -> None:
    """Write the field of a model as ONNX; it takes any number of points in the box, world units.

    Args:
        model: such as ``DreamFusion``; it is left as it was.
        path: ends in .onnx.

    Raises:
        ValueError: for another ending, or a field whose operations ONNX has not (tiny-cuda-nn's kernels).
    """
    if drawn_surface(model) is not None:
        raise ValueError('the object is drawn as triangles, and its field has no shape: set mode=export-mesh.')
    if Path(path).suffix.lower() != '.onnx':
        refuse('the path of an exported field', str(path), 'a name that ends in .onnx')
    # torch's exporter knows a ^ b of booleans only (and calls __xor__ by this name)
    torch.onnx.register_custom_op_symbolic('aten::__xor_', _xor, OPSET)
    try:
        with atomic_path(path) as temporary, warnings.catch_warnings():
            warnings.simplefilter('ignore')  # the exporter's, about itself
            Exportable.export(ExportableField(model.nerf), str(temporary), onnx_opset_version=OPSET)
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        raise ValueError(
            f'A {type(model.nerf).__name__} cannot be written as ONNX ({first_line(error)}). '
            'Fields of model/nerf=torchngp can.'
        ) from error
    finally:
        torch.onnx.unregister_custom_op_symbolic('aten::__xor_', OPSET)


def _xor(graph: Any, a: Any, b: Any) -> Any:
    return graph.op('BitwiseXor', a, b)
