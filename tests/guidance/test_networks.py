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

"""The frozen networks: their options, and export through NeMo's Exportable."""

from __future__ import annotations

import pytest
import torch
from refusals import refusal

from nemo_dreamfusion.checkpoints.diffusers_format import DiffusersCheckpoint
from nemo_dreamfusion.modules.guidance.distillation.vsd import VariationalScoreDistillation
from nemo_dreamfusion.modules.guidance.huggingface import HuggingFaceGuidance
from nemo_dreamfusion.modules.guidance.networks.base import freeze
from nemo_dreamfusion.modules.guidance.networks.options import NetworkOptions
from nemo_dreamfusion.modules.guidance.networks.text_encoder import TextEncoder
from nemo_dreamfusion.modules.guidance.networks.unet import NoisePredictor, load_noise_predictor
from nemo_dreamfusion.modules.guidance.networks.vae import ImageEncoder
from nemo_dreamfusion.parts.types import PromptSet

CPU, GPU = torch.device('cpu'), torch.device('cuda')
CUDA_GRAPHS = 'model.guidance.networks.cuda_graphs'


def test_flash_in_single_precision_on_a_gpu_is_refused_before_any_weights_are_read():
    flash = NetworkOptions(attention='flash')
    with refusal('model.guidance.networks.attention', 'flash', 'model.guidance.networks.precision=16'):
        load_noise_predictor(None, torch.float32, torch.device('cuda'), flash)


def build(kind, folder):
    weights = DiffusersCheckpoint(str(folder))
    return freeze(
        {
            'unet': lambda: NoisePredictor(weights.unet(torch.float32)),
            'vae': lambda: ImageEncoder(weights.vae(torch.float32)),
            'clip': lambda: TextEncoder(weights.text_encoder(torch.float32)),
        }[kind](),
        'cpu',
    )


@pytest.mark.filterwarnings('ignore')  # of the exporter, about itself
@pytest.mark.parametrize(('kind', 'output'), [('unet', 'logits'), ('vae', 'moments'), ('clip', 'logits')])
def test_exported_networks_agree_with_torch(sd_folder, tmp_path, kind, output):
    onnxruntime = pytest.importorskip('onnxruntime')
    network = build(kind, sd_folder)
    file = str(tmp_path / f'{kind}.onnx')
    network.export(file)
    session = onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider'])
    assert [i.name for i in session.get_inputs()] == list(network.INPUTS)
    assert [o.name for o in session.get_outputs()] == [output]
    for batch in (1, 3):
        inputs = [
            torch.randn(x.shape) if x.is_floating_point() else torch.randint(0, 40, x.shape, dtype=x.dtype)
            for x in network.input_example(batch)
        ]
        (found,) = session.run(None, {name: x.numpy() for name, x in zip(network.INPUTS, inputs)})
        with torch.no_grad():
            torch.testing.assert_close(torch.tensor(found), network(*inputs), rtol=0, atol=1e-5)


def test_what_cannot_be_recorded_is_refused_when_asked_for():
    with refusal(CUDA_GRAPHS, True, 'auto'):
        NetworkOptions(cuda_graphs=True, checkpoint_vae=True)
    with refusal(CUDA_GRAPHS, True, 'auto'):
        HuggingFaceGuidance(score=VariationalScoreDistillation(), networks=NetworkOptions(cuda_graphs=True))
    auto = NetworkOptions(cuda_graphs='auto', checkpoint_vae=True)
    HuggingFaceGuidance(score=VariationalScoreDistillation(), networks=auto)


def test_auto_records_on_a_gpu():
    assert NetworkOptions(cuda_graphs='auto').records(GPU) and not NetworkOptions(cuda_graphs='auto').records(CPU)
    assert not NetworkOptions(cuda_graphs=False).records(GPU)


def test_auto_leaves_several_processes_alone(monkeypatch):
    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
    assert not NetworkOptions(cuda_graphs='auto').records(GPU) and NetworkOptions(cuda_graphs=True).records(GPU)


def test_on_a_cpu_nothing_is_recorded(sd_folder):
    asked = HuggingFaceGuidance(source='no-such-folder', networks=NetworkOptions(cuda_graphs=True))
    with refusal(CUDA_GRAPHS, True, 'auto'):
        asked.prepare(PromptSet('a red cube'), 'cpu')
    guidance = HuggingFaceGuidance(source=str(sd_folder), networks=NetworkOptions(cuda_graphs='auto'))
    guidance.prepare(PromptSet('a red cube'), 'cpu')
    assert guidance.encode.stand_in is None and guidance.noise_model.network is guidance.noise_predictor


@pytest.mark.parametrize(('checkpoint_vae', 'vsd'), [(False, False), (True, False), (False, True), (True, True)])
def test_each_network_is_recorded_where_it_can_be(sd_folder, checkpoint_vae, vsd):
    """Recording itself begins with the first call, so that it can be asked for without a GPU."""
    if vsd:
        pytest.importorskip('peft')
    guidance = HuggingFaceGuidance(
        source=str(sd_folder),
        score=VariationalScoreDistillation() if vsd else None,
        networks=NetworkOptions(checkpoint_vae=checkpoint_vae),
    )
    guidance.prepare(PromptSet('a red cube'), 'cpu')
    guidance.record_networks()
    assert (guidance.encode.stand_in is None) == checkpoint_vae
    assert (guidance.noise_model.network is guidance.noise_predictor) == vsd
