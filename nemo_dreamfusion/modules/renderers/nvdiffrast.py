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


"""The renderer of NeMo's mesh stage. The name is known, so that old command lines hear why it does not run."""

from __future__ import annotations

from typing import Any

from nemo_dreamfusion.modules.renderers.volume import VolumeRenderer
from nemo_dreamfusion.parts.optional import MissingPackageError


class NVDiffRastRenderer(VolumeRenderer):
    """``model/renderer=nvdiffrast``: takes the options of the other renderers and refuses to be built.

    Raises:
        MissingPackageError: always.
    """

    def __init__(self, **options: Any) -> None:
        raise MissingPackageError(
            "model/renderer=nvdiffrast draws meshes with the package 'nvdiffrast', and the mesh stage that would use it is "
            'not in this release. Set model/renderer=torchngp_raymarching (mesh.glb is made of its object).'
        )
