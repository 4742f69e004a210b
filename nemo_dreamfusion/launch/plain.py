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

"""A configuration as plain dictionaries and lists."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nemo_dreamfusion.parts.checks import first_line


def to_plain(cfg: Any) -> dict[str, Any]:
    """Return a mapping of OmegaConf as a dictionary, interpolations resolved.

    Raises:
        ValueError: when it is no mapping, or an interpolation names what is not there.
    """
    try:
        plain = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise ValueError(f'{error.full_key or "The configuration"}: {first_line(error)}.') from error
    if not isinstance(plain, dict):
        raise ValueError(f'{plain!r} is no configuration: it must be a mapping of keys to values.')
    return {str(key): value for key, value in plain.items()}
