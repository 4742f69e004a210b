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

"""The switch model.guidance.cuda_graphs where there is no GPU; what it does on one is in test_gpu.py."""

import pytest
import torch

from nemo_dreamfusion.modules.guidance.cuda_graphs import Recording
from nemo_dreamfusion.modules.guidance.huggingface import HuggingFaceGuidance
from nemo_dreamfusion.parts.types import PromptSet

CPU, GPU = torch.device('cpu'), torch.device('cuda')


@pytest.mark.parametrize('options', [{'score': 'vsd'}, {'checkpoint_vae': True}])
def test_what_cannot_be_recorded_is_refused_when_asked_for(sd_folder, options):
    with pytest.raises(ValueError, match='model.guidance.cuda_graphs = True is not allowed.*false or auto where'):
        HuggingFaceGuidance(source=str(sd_folder), cuda_graphs=True, **options)
    HuggingFaceGuidance(source=str(sd_folder), cuda_graphs='auto', **options)


def test_auto_records_what_can_be():
    assert Recording('auto', 'sds', False).unet and Recording('auto', 'sds', False).encoder
    assert not Recording('auto', 'vsd', False).unet and Recording('auto', 'vsd', False).encoder
    assert Recording('auto', 'ism', True).unet and not Recording('auto', 'ism', True).encoder
    assert Recording('auto', 'sds', False).takes_place(GPU) and not Recording('auto', 'sds', False).takes_place(CPU)
    assert not Recording(False, 'sds', False).takes_place(GPU)


def test_auto_leaves_several_processes_alone(monkeypatch):
    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
    assert not Recording('auto', 'sds', False).takes_place(GPU) and Recording(True, 'sds', False).takes_place(GPU)


def test_on_a_cpu_nothing_is_recorded(sd_folder):
    with pytest.raises(ValueError, match='model.guidance.cuda_graphs'):
        HuggingFaceGuidance(source=str(sd_folder), cuda_graphs='always')
    with pytest.raises(ValueError, match='false or auto on cpu'):
        HuggingFaceGuidance(source='no-such-folder', cuda_graphs=True).prepare(PromptSet('a red cube'), 'cpu')
    guidance = HuggingFaceGuidance(source=str(sd_folder), cuda_graphs='auto')
    guidance.prepare(PromptSet('a red cube'), 'cpu')
    assert guidance.encode.stand_in is None and guidance.score.model.network is guidance.noise_predictor
