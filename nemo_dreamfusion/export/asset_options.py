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

"""How large an asset may be, and the check of it, which needs no torch."""

from __future__ import annotations

from typing import Any

from nemo_dreamfusion.parts.checks import check_range

FACES, TEXTURE_SIZE = 30_000, 1024  # when nothing is said


def check_asset_options(faces: Any, texture_size: Any) -> None:
    """Refuse numbers of triangles and texels that cannot work, under the names of their settings."""
    check_range('mesh_faces', faces, 100, 1_000_000, integer=True)
    check_range('texture_size', texture_size, 64, 4096, integer=True)
