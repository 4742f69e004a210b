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

"""The folder of plans that ``nemo-dreamfusion-build-engines`` writes: three plans and ``conf.yaml``, in NeMo's schema.

NeMo's keys are the shapes of every input and output with the batch they were tuned for, and the sizes of the picture. Ours
are ``engine`` (who runs the plans), ``precision``, ``max_batch_size`` and ``weights`` (what they were built
from).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from nemo_dreamfusion.checkpoints.base import Checkpoint
from nemo_dreamfusion.modules.guidance.engines import onnxruntime as engine_onnxruntime
from nemo_dreamfusion.modules.guidance.engines import tensorrt as engine_tensorrt
from nemo_dreamfusion.modules.guidance.engines.runner import BUILD, Runner
from nemo_dreamfusion.parts.checks import first_line

ENGINES = {'tensorrt': engine_tensorrt.TensorRTRunner, 'onnxruntime': engine_onnxruntime.OnnxRuntimeRunner}
PACKAGES = {'tensorrt': engine_tensorrt.load_package, 'onnxruntime': engine_onnxruntime.load_package}
TENSORS = {'clip': ('tokens', 'logits'), 'unet': ('x', 't', 'context', 'logits')}  # what a guidance runs
_SETTING = 'model.guidance.plan_dir'


@dataclass(frozen=True)
class Plans:
    """A folder of plans that is whole.

    Attributes:
        folder: where it is.
        conf: its ``conf.yaml``.
        engine: who runs them. ONNX Runtime also runs a folder that was built for TensorRT: the ONNX models stand beside it.
    """

    folder: Path
    conf: Mapping[str, Any]
    engine: str

    def file(self, name: str) -> Path:
        """Return what the engine loads for ``clip``, ``unet`` or ``vae``."""
        if self.engine != self.conf['engine']:
            return self.folder.parent / 'onnx' / name / f'{name}.onnx'
        return self.folder / f'{name}.plan'

    def open(self, name: str, device: torch.device) -> Runner:
        """Load the runner of ``clip``, ``unet`` or ``vae`` on a device.

        Raises:
            ValueError: when the engine cannot be loaded there, or takes and gives other tensors than ``conf.yaml`` says.
        """
        runner = ENGINES[self.engine](self.file(name), device)
        found = {tensor: list(spec.sizes) for tensor, spec in {**runner.inputs, **runner.outputs}.items()}
        for tensor in found.keys() | set(TENSORS.get(name, ())):
            stated = self.conf[name].get(tensor)
            if tensor not in found or stated is None or list(stated[1:]) != found[tensor]:
                raise ValueError(
                    f'{tensor} of {str(runner.plan)!r} is {_sizes(found.get(tensor))} and conf.yaml beside it says '
                    f'{_sizes(stated and stated[1:])}: they were not built together. {BUILD}'
                )
        return runner

    def check_built_from(self, weights: Checkpoint, setting: str) -> None:
        """Raise ValueError that names the networks whose weights in the checkpoint are not those of the plans."""
        found = fingerprints(weights)
        stated = self.conf['weights']
        other = [part for part in found if stated.get(part) != found[part]]
        if other:
            raise ValueError(
                f'{_SETTING}={str(self.folder)!r} was built from another checkpoint than {setting}={weights.name!r}: '
                f'{", ".join(other)} differ. Set {setting} to the one it was built from, or build plans of this one with '
                'nemo-dreamfusion-build-engines.'
            )


def read_plans(plan_dir: str, engine: str) -> Plans:
    """Open a folder of plans without loading any.

    Raises:
        ValueError: when the folder or a file is missing, ``conf.yaml`` is not one of that command, or the
            plans are another engine's.
    """
    folder = Path(plan_dir).expanduser()
    build = f'nemo-dreamfusion-build-engines source=<checkpoint> out_dir=<folder> engine={engine} makes <folder>/plan.'
    if not folder.is_dir():
        raise ValueError(f'{_SETTING}={str(plan_dir)!r}: there is no such folder. {build}')
    if not (folder / 'conf.yaml').is_file():
        raise ValueError(f'{_SETTING}={str(plan_dir)!r} lacks conf.yaml. {build}')
    plans = Plans(folder.resolve(), _read_conf(folder / 'conf.yaml'), engine)
    made_for = plans.conf['engine']
    if engine not in (made_for, 'onnxruntime'):
        raise ValueError(
            f'model.guidance.engine={engine}, and the plans in {str(plan_dir)!r} are for engine={made_for}. Set '
            f'model.guidance.engine={made_for}, or another {_SETTING}. {build}'
        )
    missing = [plans.file(name).name for name in TENSORS if not plans.file(name).is_file()]
    if missing:
        beside = '' if engine == made_for else f', which is for engine={made_for}, with its folder onnx beside it,'
        raise ValueError(f'{_SETTING}={str(plan_dir)!r}{beside} lacks {", ".join(missing)}. {build}')
    return plans


def _read_conf(path: Path) -> dict[str, Any]:
    try:
        conf = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f'{str(path)!r} cannot be read ({first_line(error)}). {BUILD}') from error
    conf = conf if isinstance(conf, dict) else {}
    lacking = [key for key in ('engine', 'weights') if key not in conf]
    for name, tensors in TENSORS.items():
        stated = conf.get(name)
        section = stated if isinstance(stated, dict) else {}
        lacking += [f'{name}.{tensor}' for tensor in tensors if not isinstance(section.get(tensor), list)]
    if lacking or not isinstance(conf['weights'], dict):
        raise ValueError(f'{str(path)!r} says nothing of {", ".join(lacking or ["weights"])}. {BUILD}')
    return conf


def fingerprints(weights: Checkpoint) -> dict[str, str]:
    """Return the fingerprint of each network: equal for a ``.nemo`` archive and the folder that it was converted to."""
    load = {'clip': weights.text_encoder, 'unet': weights.unet, 'vae': weights.vae}
    return {part: fingerprint(network(torch.float32)) for part, network in load.items()}


def fingerprint(network: nn.Module) -> str:
    """Return eight hexadecimal digits (a CRC-32) of all names and values.

    >>> fingerprint(nn.Linear(1, 1, bias=False).requires_grad_(False)) != fingerprint(nn.ReLU())
    True
    """
    crc = 0
    for name, value in sorted(network.state_dict().items()):
        crc = zlib.crc32(value.reshape(-1).numpy(), zlib.crc32(name.encode(), crc))
    return f'{crc:08x}'


def _sizes(sizes: list[int] | None) -> str:
    return 'nothing' if sizes is None else f'[{", ".join(["B", *map(str, sizes)])}]'
