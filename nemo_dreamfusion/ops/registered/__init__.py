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

"""The compiled bodies as PyTorch operators ``torch.ops.nemo_dreamfusion.*``: autograd and torch.compile see through them.

Gradients of gradients work everywhere. The hash grid's backward is made of operators that have a backward of their own:
normals are gradients, and losses on normals are trained through.
"""

from nemo_dreamfusion.ops.registered.adan import adan_step
from nemo_dreamfusion.ops.registered.compositing import (
    accumulate,
    accumulate_backward,
    render_weights,
    render_weights_backward,
    visible_prefix,
)
from nemo_dreamfusion.ops.registered.grid import (
    FEATURES,
    hash_grid,
    hash_grid_backward_positions,
    hash_grid_backward_table,
    hash_grid_double_backward,
)
from nemo_dreamfusion.ops.registered.marching import march
from nemo_dreamfusion.ops.registered.mlp import relu_mlp, relu_mlp_backward
from nemo_dreamfusion.ops.registered.operator import bodies

__all__ = [
    'FEATURES',
    'accumulate',
    'accumulate_backward',
    'adan_step',
    'bodies',
    'hash_grid',
    'hash_grid_backward_positions',
    'hash_grid_backward_table',
    'hash_grid_double_backward',
    'march',
    'relu_mlp',
    'relu_mlp_backward',
    'render_weights',
    'render_weights_backward',
    'visible_prefix',
]
