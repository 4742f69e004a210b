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

"""The switches model.compile and model.guidance.networks.compile: TorchInductor, or another backend of torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from nemo_dreamfusion.parts.checks import check_choice


def check_compile(name: str, value: Any) -> None:
    """Refuse what is not false, true, the name of a torch.compile backend or a backend itself."""
    if not callable(value) and not isinstance(value, bool):  # listing the backends imports them
        check_choice(name, value, (False, True, *torch.compiler.list_backends(exclude_tags=())))


def inductor_options(value: bool | str | Callable) -> dict[str, Any]:
    """Return the options of ``torch.nn.Module.compile`` that the switch stands for; true is TorchInductor."""
    return {'backend': 'inductor' if value is True else value}
