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

"""Memory for large results that is used again."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from nemo_dreamfusion.ops.backends.cpu.library import empty_float32

USE_COUNT = getattr(torch._C, '_storage_Use_Count', None)  # private: without it no memory is used again


class Buffers:
    """Memory for large results, used again once no tensor holds it.

    New memory costs more in page faults than the arithmetic on it: 49 MB for a table's gradient, 17 MB for encoded points.
    The kernels write every element of a result, so the old content does not matter.

    Args:
        slack: how many times larger than asked for a buffer is allocated; it then serves any size from 1 / slack of the
            size asked for up to slack of it. 1 is for results of one size.
        limit: how many buffers are remembered, those used last.
    """

    def __init__(self, slack: float = 1.0, limit: int = 4) -> None:
        self.slack, self.limit = slack, limit
        self.storages: list[torch.UntypedStorage] = []
        self.lock = threading.Lock()

    def take(self, rows: int, features: int) -> Tensor:
        """Return float32 memory [rows, features] of any content."""
        if USE_COUNT is None:
            return empty_float32(rows, features)
        size = rows * features * 4
        with self.lock:
            fitting = (s for s in reversed(self.storages) if size <= s.nbytes() <= size * self.slack**2)
            storage = next(filter(_is_free, fitting), None)
            if storage is None:
                storage = empty_float32(int(rows * self.slack), features).untyped_storage()
            others = [other for other in self.storages if other is not storage]
            self.storages = [*others, storage][-self.limit :]
            return empty_float32(0).set_(storage, 0, (rows, features), (features, 1))


def _is_free(storage: torch.UntypedStorage) -> bool:
    """Whether no tensor, in any process, holds the storage."""
    assert USE_COUNT is not None
    return USE_COUNT(storage._cdata) == 1 and not storage.is_shared()
