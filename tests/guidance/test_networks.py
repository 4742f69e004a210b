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

"""The networks follow NeMo's Exportable: what leaves as ONNX gives what torch gives, for any batch."""

from __future__ import annotations

import pytest
import torch

from nemo_dreamfusion.checkpoints.diffusers_format import DiffusersCheckpoint
from nemo_dreamfusion.modules.guidance import networks

onnxruntime = pytest.importorskip('onnxruntime')


def test_flash_in_single_precision_on_a_gpu_is_refused_before_any_weights_are_read():
    flash = networks.Switches(attention='flash')
    with pytest.raises(ValueError, match='model.guidance.precision=16'):
        networks.load_noise_predictor(None, torch.float32, torch.device('cuda'), flash)


def build(kind, folder):
    weights = DiffusersCheckpoint(str(folder))
    return networks.frozen(
        {
            'unet': lambda: networks.NoisePredictor(weights.unet(torch.float32)),
            'vae': lambda: networks.ImageEncoder(weights.vae(torch.float32)),
            'clip': lambda: networks.TextEncoder(weights.text_encoder(torch.float32)),
        }[kind](),
        'cpu',
    )


@pytest.mark.filterwarnings('ignore')  # of the exporter, about itself
@pytest.mark.parametrize(('kind', 'output'), [('unet', 'logits'), ('vae', 'moments'), ('clip', 'logits')])
def test_exported_networks_agree_with_torch(sd_folder, tmp_path, kind, output):
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
