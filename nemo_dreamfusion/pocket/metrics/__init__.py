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

"""Compare an object with the true scene of its prompt: by its views, its surface, its colours, and among other scenes."""

from nemo_dreamfusion.pocket.metrics.views import (
    AZIMUTHS_DEG,
    DISTANCE,
    ELEVATIONS_DEG,
    FOV_Y_DEG,
    VIEWS_DEG,
    build_cameras,
    compute_view_accuracy,
    render_object,
    render_truth,
    score,
)

__all__ = [
    'AZIMUTHS_DEG',
    'DISTANCE',
    'ELEVATIONS_DEG',
    'FOV_Y_DEG',
    'VIEWS_DEG',
    'build_cameras',
    'compute_view_accuracy',
    'render_object',
    'render_truth',
    'score',
]
