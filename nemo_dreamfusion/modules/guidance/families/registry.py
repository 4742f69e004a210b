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

"""The families by their names."""

from __future__ import annotations

from nemo_dreamfusion.checkpoints.base import Checkpoint
from nemo_dreamfusion.modules.guidance.families.base import Family
from nemo_dreamfusion.modules.guidance.families.flux2_klein import Flux2Klein
from nemo_dreamfusion.modules.guidance.families.mvdream import MVDream
from nemo_dreamfusion.modules.guidance.families.sd import StableDiffusion
from nemo_dreamfusion.modules.guidance.families.sd3 import StableDiffusion3
from nemo_dreamfusion.modules.guidance.families.sdxl import StableDiffusionXL
from nemo_dreamfusion.modules.guidance.families.z_image import ZImage

FAMILIES: dict[str, type[Family]] = {
    'sd': StableDiffusion,
    'sdxl': StableDiffusionXL,
    'sd3': StableDiffusion3,
    'flux2_klein': Flux2Klein,
    'z_image': ZImage,
    'mvdream': MVDream,
}


def family_of(weights: Checkpoint) -> Family:
    """Return the family of a model, by its files. A NeMo archive holds a Stable Diffusion 1.x or 2.x.

    Raises:
        ValueError: for a family that is not known, with those that are.
    """
    files = getattr(weights, 'family', None)
    return StableDiffusion(weights) if files is None else FAMILIES[files.name](weights)
