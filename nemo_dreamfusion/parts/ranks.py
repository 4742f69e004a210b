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

"""Which of several processes this is, as their launcher tells it; without NeMo, which takes seconds to import."""

from __future__ import annotations

import os

GLOBAL = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')  # of torchrun, srun and mpirun, as NeMo asks for them


def is_global_rank_zero() -> bool:
    """Return whether this is the first of all processes, or the only one: what ``nemo.utils.get_rank`` says."""
    for name in GLOBAL:
        if name in os.environ:
            return int(os.environ[name]) == 0
    node = os.environ.get('NODE_RANK', os.environ.get('GROUP_RANK', '0'))
    return int(node) == 0 and int(os.environ.get('LOCAL_RANK', '0')) == 0
