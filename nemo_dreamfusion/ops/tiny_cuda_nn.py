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


"""tiny-cuda-nn (https://github.com/NVlabs/tiny-cuda-nn): fused encodings and MLPs, for NVIDIA GPUs only."""

from __future__ import annotations

from types import ModuleType

import torch

from nemo_dreamfusion.parts.optional import MissingPackageError, require

# The options of a small network, in tiny-cuda-nn's own names.
NETWORK = {
    'otype': 'FullyFusedMLP',
    'activation': 'ReLU',
    'output_activation': 'None',
    'n_neurons': 64,
    'n_hidden_layers': 2,
}


def tiny_cuda_nn(choice: str, instead: str) -> ModuleType:
    """Return the package ``tinycudann``.

    Args:
        choice: the setting that needs it, such as ``model/nerf=tcnn``.
        instead: the setting that does without.

    Raises:
        MissingPackageError: without the package, or without a GPU for it.
    """
    package = require('tinycudann', 'tcnn', f'{choice} is made of its kernels', instead)
    if not torch.cuda.is_available():
        raise MissingPackageError(f'{choice} needs an NVIDIA GPU, and torch sees none. Choose {instead}.')
    return package
