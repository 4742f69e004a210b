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

"""Plans that TensorRT 10 or 11 runs, on an NVIDIA GPU: here a plan is a serialized engine.

Uses the part of TensorRT's interface that both versions have: tensors by name, ``execute_async_v3``. Where this was written
there was no such GPU: it ran against stand-ins with TensorRT's documented interface (tests/guidance/test_tensorrt.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from nemo_dreamfusion.modules.guidance.engines.runner import BUILD, Runner, spec_of
from nemo_dreamfusion.parts.optional import require

DEVICE = 'cuda'
_TYPES = {
    'FLOAT': torch.float32,
    'HALF': torch.float16,
    'BF16': torch.bfloat16,
    'INT32': torch.int32,
    'INT64': torch.int64,
}


def load_package() -> ModuleType:
    """Import tensorrt, or say in one message what to do without it."""
    return require(
        'tensorrt',
        extra='tensorrt',
        reason='model.guidance.engine=tensorrt builds and runs its plans with it, on an NVIDIA GPU',
        instead='model.guidance.engine=onnxruntime, whose plans nemo-dreamfusion-build-engines engine=onnxruntime makes',
    )


class TensorRTRunner(Runner):
    """A serialized engine on a CUDA device, in torch's current stream."""

    def __init__(self, plan: Path, device: torch.device) -> None:
        super().__init__(plan, device)
        package = load_package()
        if device.type != DEVICE:
            raise ValueError(
                f'TensorRT needs an NVIDIA GPU, and this run is on {device.type!r}. Set trainer.accelerator=gpu, or '
                'model.guidance.engine=onnxruntime with plans that were built for it.'
            )
        self._runtime = package.Runtime(package.Logger(package.Logger.WARNING))
        self._engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        if self._engine is None:
            raise ValueError(
                f'TensorRT {package.__version__} cannot load {str(plan)!r}: a plan serves the version of TensorRT and the '
                f'kind of GPU that it was built with. {BUILD}'
            )
        self._context = self._engine.create_execution_context()
        for i in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(i)
            dtype = _TYPES.get(self._engine.get_tensor_dtype(name).name)
            spec = spec_of(plan, name, dtype, tuple(self._engine.get_tensor_shape(name)))
            is_input = self._engine.get_tensor_mode(name) == package.TensorIOMode.INPUT
            (self.inputs if is_input else self.outputs)[name] = spec
        ranges = [self._engine.get_tensor_profile_shape(name, 0) for name in self.inputs]
        self.batch = max(low[0] for low, _, _ in ranges), min(high[0] for _, _, high in ranges)

    def _execute(self, feeds: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        for name, x in feeds.items():
            self._context.set_input_shape(name, tuple(x.shape))
        for name, x in {**feeds, **outputs}.items():
            self._context.set_tensor_address(name, x.data_ptr())
        stream = torch.cuda.current_stream(self.device)
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError(f'TensorRT could not run {str(self.plan)!r}; its log above says why.')
        for x in feeds.values():  # a copy made for this call must not be reused before the engine has read it
            x.record_stream(stream)
