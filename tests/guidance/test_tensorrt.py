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

"""TensorRT's side of sd_trt, against stand-ins for the packages tensorrt and polygraphy.

The stand-ins have the part of the documented interface of TensorRT 10 and polygraphy 0.53 that is used here, check how it is
used, and compute with ONNX Runtime: an "engine" is the ONNX model with its profile. They are not TensorRT. No engine was
ever built by the real one in these tests.
"""

from __future__ import annotations

import ctypes
import json
import sys
import types
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from refusals import NO_VALUE, refusal

from nemo_dreamfusion.export import engines
from nemo_dreamfusion.export.engines import build_engines
from nemo_dreamfusion.modules.guidance.engine import EngineGuidance
from nemo_dreamfusion.modules.guidance.engines import tensorrt as engine_tensorrt
from nemo_dreamfusion.modules.guidance.engines.plans import read_plans
from nemo_dreamfusion.modules.guidance.guidance_mixing import GuidanceMixing
from nemo_dreamfusion.modules.guidance.huggingface import HuggingFaceGuidance
from nemo_dreamfusion.parts.types import PromptSet

onnxruntime = pytest.importorskip('onnxruntime')
MAGIC = b'stand-in engine\n'
STREAM = 1234
TYPES = {
    'tensor(float)': ('FLOAT', np.float32),
    'tensor(float16)': ('HALF', np.float16),
    'tensor(int32)': ('INT32', np.int32),
}


class Engine:
    """ICudaEngine: names, modes, types, shapes with -1 for what is free, and the shapes of profile 0."""

    def __init__(self, content: bytes) -> None:
        header, _, model = content.removeprefix(MAGIC).partition(b'\n')
        self.profile = json.loads(header)
        self.session = onnxruntime.InferenceSession(model, providers=['CPUExecutionProvider'])
        self.given = {x.name: x for x in self.session.get_inputs()}
        self.all = {**self.given, **{x.name: x for x in self.session.get_outputs()}}
        self.num_io_tensors = len(self.all)

    def get_tensor_name(self, index: int) -> str:
        return list(self.all)[index]

    def get_tensor_mode(self, name: str) -> str:
        return 'in' if name in self.given else 'out'

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name=TYPES[self.all[name].type][0])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self.all[name].shape)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert profile == 0 and name in self.given
        return [tuple(shape) for shape in self.profile[name]]

    def create_execution_context(self) -> Context:
        return Context(self)


class Context:
    """IExecutionContext: shapes of the inputs, addresses of all tensors, then one launch."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.shapes, self.addresses, self.fails = engine, {}, {}, False

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.profile[name]
        assert all(a <= size <= b for a, size, b in zip(low, shape, high)), 'outside of the profile'
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert isinstance(address, int) and address
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle == STREAM and set(self.addresses) == set(self.engine.all)
        if self.fails:
            return False
        feeds = {name: self._memory(name, self.shapes[name]).copy() for name in self.engine.given}
        names = [name for name in self.engine.all if name not in self.engine.given]
        for name, result in zip(names, self.engine.session.run(names, feeds)):
            self._memory(name, result.shape)[...] = result
        return True

    def _memory(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        dtype = np.dtype(TYPES[self.engine.all[name].type][1])
        size = int(np.prod(shape)) * dtype.itemsize
        return np.frombuffer((ctypes.c_char * size).from_address(self.addresses[name]), dtype).reshape(shape)


def stand_in_for_tensorrt() -> types.ModuleType:
    package = types.ModuleType('tensorrt')
    package.__version__ = '10.0'
    package.TensorIOMode = SimpleNamespace(INPUT='in', OUTPUT='out')

    class Logger:
        WARNING = 2

        def __init__(self, severity: int) -> None:
            self.severity = severity

    class Runtime:
        def __init__(self, logger: Logger) -> None:
            assert isinstance(logger, Logger)

        def deserialize_cuda_engine(self, content: bytes) -> Engine | None:
            return Engine(content) if content.startswith(MAGIC) else None

    package.Logger, package.Runtime = Logger, Runtime
    return package


def stand_in_for_polygraphy() -> types.ModuleType:
    backend = types.ModuleType('polygraphy.backend.trt')

    class Profile(dict):
        def add(self, name, min, opt, max):
            self[name] = [list(min), list(opt), list(max)]
            return self

    def network_from_onnx_path(path, *, strongly_typed=False):
        assert strongly_typed  # the only kind that TensorRT 11 makes
        return SimpleNamespace(path=path)

    def engine_bytes_from_network(network, config):
        (profile,) = config.profiles
        with open(network.path, 'rb') as file:
            return bytearray(MAGIC + json.dumps(profile).encode() + b'\n' + file.read())

    backend.Profile, backend.CreateConfig = Profile, lambda profiles: SimpleNamespace(profiles=profiles)
    backend.network_from_onnx_path = network_from_onnx_path
    backend.engine_bytes_from_network = engine_bytes_from_network
    return backend


@pytest.fixture(scope='module')
def packages():
    """The stand-ins in place of the packages, and a CPU in place of the GPU; gives the tensors that the stream kept."""
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, 'tensorrt', stand_in_for_tensorrt())
        patch.setitem(sys.modules, 'polygraphy', types.ModuleType('polygraphy'))
        patch.setitem(sys.modules, 'polygraphy.backend', types.ModuleType('polygraphy.backend'))
        patch.setitem(sys.modules, 'polygraphy.backend.trt', stand_in_for_polygraphy())
        patch.setattr(engine_tensorrt, 'DEVICE', 'cpu')
        patch.setattr(engines, '_device', lambda engine: torch.device('cpu'))
        patch.setattr(torch.cuda, 'current_stream', lambda device: SimpleNamespace(cuda_stream=STREAM))
        patch.setattr(torch.Tensor, 'record_stream', lambda tensor, stream: kept.append(tensor.data_ptr()))
        yield kept


@pytest.fixture(scope='module')
def plan_dir(packages, sd_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp('engines') / 'small'
    found = build_engines(str(sd_folder), str(folder), engine='tensorrt', batch_size=2, max_batch_size=3)
    assert set(found) == {'clip', 'unet', 'vae'} and max(found.values()) < 1e-4
    return folder / 'plan'


@pytest.fixture
def runner(plan_dir):
    return read_plans(str(plan_dir), 'tensorrt').open('unet', torch.device('cpu'))


def feeds(rows: int) -> dict[str, torch.Tensor]:
    return {
        'x': torch.randn(rows, 4, 8, 8),
        't': torch.arange(rows, dtype=torch.int32),
        'context': torch.randn(rows, 16, 16),
    }


def test_the_builder_gives_each_network_its_profile(plan_dir):
    conf = yaml.safe_load((plan_dir / 'conf.yaml').read_text())
    assert (conf['engine'], conf['batch_size'], conf['max_batch_size']) == ('tensorrt', 2, 3)
    assert conf['unet']['x'] == [4, 4, 8, 8] and conf['clip']['tokens'] == [2, 16]
    profiles = {name: Engine((plan_dir / f'{name}.plan').read_bytes()).profile for name in ('clip', 'unet', 'vae')}
    assert profiles['unet']['x'] == [[1, 4, 8, 8], [2 * 2, 4, 8, 8], [5 * 3, 4, 8, 8]]  # up to 5 texts of 3 images
    assert profiles['unet']['t'] == [[1], [4], [15]]
    assert profiles['clip'] == {'tokens': [[1, 16], [2, 16], [3, 16]]}


def test_the_runner_reads_names_types_shapes_and_rows_from_the_engine(runner):
    said = {name: str(spec) for name, spec in {**runner.inputs, **runner.outputs}.items()}
    sizes = {'x': 'float32 [B, 4, 8, 8]', 't': 'int32 [B]', 'context': 'float32 [B, 16, 16]'}
    assert said == {**sizes, 'logits': 'float32 [B, 4, 8, 8]'} and runner.batch == (1, 15)


@pytest.mark.parametrize('rows', [1, 4, 15])
def test_the_engine_reads_and_writes_torchs_memory(runner, packages, plan_dir, rows):
    given = feeds(rows)
    packages.clear()
    found = runner(given)['logits']
    session = Engine((plan_dir / 'unet.plan').read_bytes()).session
    (wanted,) = session.run(None, {name: x.numpy() for name, x in given.items()})
    torch.testing.assert_close(found, torch.tensor(wanted))
    assert len(packages) == 3  # every input outlives the launch


def test_more_rows_than_the_profile_and_a_failed_launch_are_said(runner):
    with refusal('unet.plan', "'x': 16", 'at most 15', 'max_batch_size'):
        runner(feeds(16))
    runner._context.fails = True
    with refusal('unet.plan', NO_VALUE, 'log', error=RuntimeError):
        runner(feeds(1))


def test_a_plan_of_another_gpu_or_version_is_refused(plan_dir, tmp_path):
    (tmp_path / 'unet.plan').write_bytes(b'of something else')
    with refusal(str(tmp_path / 'unet.plan'), '10.0', 'nemo-dreamfusion-build-engines'):
        engine_tensorrt.TensorRTRunner(tmp_path / 'unet.plan', torch.device('cpu'))
    with refusal('TensorRT', 'meta', 'trainer.accelerator=gpu', 'model.guidance.engine=onnxruntime'):
        engine_tensorrt.TensorRTRunner(plan_dir / 'unet.plan', torch.device('meta'))


def test_what_the_builder_raises_is_one_sentence(packages, sd_folder, tmp_path, monkeypatch):
    def fail(network, config):
        raise RuntimeError('no implementation\nof a layer')

    monkeypatch.setattr(sys.modules['polygraphy.backend.trt'], 'engine_bytes_from_network', fail)
    with refusal('clip.plan', NO_VALUE, 'no implementation') as caught:
        build_engines(str(sd_folder), str(tmp_path / 'new'), engine='tensorrt')
    assert '\n' not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('engine', ['tensorrt', 'onnxruntime'])
def test_the_guidance_is_that_of_torch_through_either_engine(sd_folder, plan_dir, render, cameras, engine):
    """One folder, built for TensorRT: through its plans, and through the ONNX models beside them."""
    mixing = GuidanceMixing(perp_neg='threestudio')
    found = EngineGuidance(plan_dir=str(plan_dir), checkpoint=str(sd_folder), engine=engine, mixing=mixing)
    wanted = HuggingFaceGuidance(source=str(sd_folder), mixing=mixing)
    losses = []
    for guidance in (found, wanted):
        guidance.prepare(PromptSet('a red cube', negative='bad'), 'cpu')
        generator = torch.Generator().manual_seed(0)
        options = {'step': 0, 'progress': 0.3, 'latent': False, 'generator': generator}
        losses.append(guidance.loss(render, cameras, **options).loss)
    torch.testing.assert_close(*losses, rtol=1e-3, atol=0)
