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

"""Plans that ONNX Runtime runs, on the CPU or on an NVIDIA GPU: here a plan is an ONNX model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from nemo_dreamfusion.modules.guidance.engines.runner import BUILD, Runner, spec_of
from nemo_dreamfusion.parts.checks import first_line
from nemo_dreamfusion.parts.optional import require

_PROVIDERS = {'cpu': 'CPUExecutionProvider', 'cuda': 'CUDAExecutionProvider'}
_TYPES = {
    'tensor(float)': torch.float32,
    'tensor(float16)': torch.float16,
    'tensor(int32)': torch.int32,
    'tensor(int64)': torch.int64,
}


def load_package() -> ModuleType:
    """Import onnxruntime, or say in one message what to do without it."""
    return require(
        'onnxruntime',
        extra='onnxruntime',
        reason='model.guidance.engine=onnxruntime runs the plans with it',
        instead='model/guidance=sd_nemo, which runs the same checkpoint in torch',
    )


class OnnxRuntimeRunner(Runner):
    """An ONNX model on the CPU or a CUDA device, reading and writing torch's own memory. Any number of rows."""

    def __init__(self, plan: Path, device: torch.device) -> None:
        super().__init__(plan, device)
        package = load_package()
        provider = self._provider(package)
        options = package.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self._session = package.InferenceSession(str(plan), options, providers=[(provider, self._place())])
        except Exception as error:  # onnxruntime raises its own types, which share no base
            raise ValueError(f'ONNX Runtime cannot load {str(plan)!r} ({first_line(error)}). {BUILD}') from error
        if self._session.get_providers()[0] != provider:  # it goes on with the CPU after a warning
            raise ValueError(
                f'ONNX Runtime could not start {provider} on this machine. Check the CUDA libraries that '
                'onnxruntime-gpu needs, or set trainer.accelerator=cpu.'
            )
        self.inputs = {x.name: spec_of(plan, x.name, _TYPES.get(x.type), tuple(x.shape)) for x in self._in()}
        self.outputs = {x.name: spec_of(plan, x.name, _TYPES.get(x.type), tuple(x.shape)) for x in self._out()}

    def _in(self) -> list:
        return self._session.get_inputs()

    def _out(self) -> list:
        return self._session.get_outputs()

    def _provider(self, package: ModuleType) -> str:
        provider = _PROVIDERS.get(self.device.type)
        if provider is None or provider not in package.get_available_providers():
            raise ValueError(
                f'The onnxruntime that is installed does not run on {self.device.type!r}, it has '
                f'{", ".join(package.get_available_providers())}. Install onnxruntime-gpu in its place for CUDA, or set '
                'trainer.accelerator=cpu.'
            )
        return provider

    def _place(self) -> dict[str, int]:
        return {'device_id': self.device.index or 0} if self.device.type == 'cuda' else {}

    def _execute(self, feeds: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        binding = self._session.io_binding()
        for tensors, bind in ((feeds, binding.bind_input), (outputs, binding.bind_output)):
            for name, x in tensors.items():
                numpy_type = getattr(np, str(x.dtype).removeprefix('torch.'))
                bind(name, x.device.type, x.device.index or 0, numpy_type, tuple(x.shape), x.data_ptr())
        if self.device.type == 'cuda':  # the session has a stream of its own, and waits for that one itself
            torch.cuda.current_stream(self.device).synchronize()
        self._session.run_with_iobinding(binding)
