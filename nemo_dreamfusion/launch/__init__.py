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

"""The application: fit, render, evaluate and export as functions that a program or a notebook calls.

    from nemo_dreamfusion import launch

    cfg = launch.load_config(overrides=['model.prompt=a duck', 'trainer.max_steps=100'])
    result = launch.fit(cfg)
    print(result.folder / 'turntable.mp4', result.metrics['fit_seconds'])

Each returns what it made and raises where it cannot; nothing here prints an error or ends the process. The commands of a
terminal are in ``command_line``. Importing this package is quick: a function's module is loaded when it is first asked for.
"""

import logging
import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nemo_dreamfusion.launch.benchmarking.running import bench as bench
    from nemo_dreamfusion.launch.configuration import load_config as load_config
    from nemo_dreamfusion.launch.evaluation import EvaluationResult as EvaluationResult
    from nemo_dreamfusion.launch.evaluation import evaluate as evaluate
    from nemo_dreamfusion.launch.exporting import ExportResult as ExportResult
    from nemo_dreamfusion.launch.exporting import export as export
    from nemo_dreamfusion.launch.fitting import FitInterrupted as FitInterrupted
    from nemo_dreamfusion.launch.fitting import FitResult as FitResult
    from nemo_dreamfusion.launch.fitting import fit as fit
    from nemo_dreamfusion.launch.measuring.running import MeasuredRuns as MeasuredRuns
    from nemo_dreamfusion.launch.rendering import RenderResult as RenderResult
    from nemo_dreamfusion.launch.rendering import render as render
    from nemo_dreamfusion.launch.viewing import view as view


# Before NeMo and torch are imported: what they would say meanwhile
logging.getLogger('nv_one_logger').setLevel(logging.ERROR)  # telemetry that is off
os.environ.setdefault('TORCH_CPP_LOG_LEVEL', 'ERROR')  # else each process of several gives wrong advice on DDP

_MODULES = {  # no module has a function's name, or importing it would put it in the function's place
    'benchmarking.running': ('bench',),
    'configuration': ('load_config',),
    'evaluation': ('EvaluationResult', 'evaluate'),
    'exporting': ('ExportResult', 'export'),
    'fitting': ('FitInterrupted', 'FitResult', 'fit'),
    'measuring.running': ('MeasuredRuns',),
    'rendering': ('RenderResult', 'render'),
    'viewing': ('view',),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'{__name__}.{_MODULE_OF[name]}'), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
