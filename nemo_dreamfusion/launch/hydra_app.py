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

"""Run a function on the configuration that a command line composes, as NeMo's ``hydra_runner`` does, but without NeMo.

NeMo and Lightning take seconds to import, and a command line that Hydra refuses needs neither.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import hydra
from omegaconf import DictConfig

AS_NEMO = ('hydra.output_subdir=null', 'hydra/job_logging=stdout', 'hydra.run.dir=.')  # exp_manager makes the folders


def run_with_hydra(task: Callable[[DictConfig], None], folder: Path, name: str) -> None:
    """Compose ``folder``/``name``.yaml with what ``sys.argv`` says, and call ``task`` with it, or with each of a sweep.

    Raises:
        hydra.errors.HydraException: for what does not compose, where HYDRA_FULL_ERROR is set.
    """
    sys.argv += [word for word in AS_NEMO if word not in sys.argv]  # a process that Lightning starts has them already
    try:
        hydra.main(version_base=None, config_path=str(folder), config_name=name)(task)()
    finally:
        loaded = sys.modules.get('nemo.lightning.callback_group')
        if loaded is not None:  # NeMo's telemetry, which its own runner ends here
            loaded.CallbackGroup.get_instance().on_app_end()
