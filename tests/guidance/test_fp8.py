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

"""FP8: which layers are replaced, what they compute, and what is refused.

Transformer Engine needs a GPU. Here a stand-in with its interface rounds weights and inputs to torch's own E4M3, and insists
on what the true one insists on: sizes, an autocast around it, and a weight that was rounded before it is reused.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import pytest
import torch
from guidance.small_steps import guidance_of, loss, prepared
from refusals import refusal
from torch import nn

from nemo_dreamfusion.modules.guidance.distillation.vsd import VariationalScoreDistillation
from nemo_dreamfusion.modules.guidance.engine import EngineGuidance
from nemo_dreamfusion.modules.guidance.huggingface import HuggingFaceGuidance
from nemo_dreamfusion.modules.guidance.networks.fp8 import FP8, Fp8Linear, InFp8, check_fp8
from nemo_dreamfusion.modules.guidance.networks.options import NetworkOptions
from nemo_dreamfusion.parts.optional import MissingPackageError
from nemo_dreamfusion.parts.types import PromptSet

IN_FP8 = NetworkOptions(fp8=True)
CPU, GPU = torch.device('cpu'), torch.device('cuda')


def rounded(tensor: torch.Tensor) -> torch.Tensor:
    """Rounded to E4M3 under a scale that takes its largest number to 448."""
    scale = 448 / tensor.abs().max().clamp_min(1e-12)
    return (tensor * scale).to(torch.float8_e4m3fn).to(tensor.dtype) / scale


class StandInLinear(nn.Linear):
    recipe = None  # of the autocast around it

    def __init__(self, in_features, out_features, *, bias, params_dtype, device):
        super().__init__(in_features, out_features, bias=bias, dtype=params_dtype, device=device)
        self.kept, self.calls, self.roundings = None, 0, 0

    def forward(self, input, is_first_microbatch=None):
        assert StandInLinear.recipe == 'E4M3' and not torch.is_grad_enabled()
        assert input.shape[:-1].numel() % 8 == 0 and input.shape[-1] % 16 == 0 and self.weight.shape[0] % 16 == 0
        if is_first_microbatch:
            self.kept, self.roundings = rounded(self.weight), self.roundings + 1
        self.calls += 1
        return nn.functional.linear(rounded(input), self.kept, self.bias)


@contextmanager
def autocast(*, enabled, recipe):
    StandInLinear.recipe = recipe if enabled else None
    yield
    StandInLinear.recipe = None


@pytest.fixture
def engine(monkeypatch):
    """The stand-in, under the names that are imported."""
    package = ModuleType('transformer_engine.pytorch')
    package.Linear, package.autocast = StandInLinear, autocast
    recipes = ModuleType('transformer_engine.common.recipe')
    recipes.Format, recipes.Float8CurrentScaling = SimpleNamespace(E4M3='E4M3'), lambda fp8_format: fp8_format
    for module in (package, recipes):
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def capability(monkeypatch):
    """Makes torch see one CUDA device of a compute capability."""

    def see(*version):
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
        monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device=None: version)
        monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device=None: 'A GPU')

    return see


def test_layers_of_fitting_sizes_are_replaced(engine, sd_folder):
    plain = prepared(sd_folder).noise_predictor
    wanted = {
        name
        for name, layer in plain.named_modules()
        if type(layer) is nn.Linear and layer.in_features % 16 == 0 and layer.out_features % 16 == 0
    }
    weights = {name: layer.weight.clone() for name, layer in plain.named_modules() if name in wanted}
    convolutions = [layer for layer in plain.modules() if isinstance(layer, nn.Conv2d)]
    predictor = InFp8(plain)
    found = {name: layer for name, layer in predictor.predictor.named_modules() if type(layer) is Fp8Linear}
    assert set(found) == wanted and 'unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0' in wanted
    assert all(torch.equal(found[name].layer.weight, weights[name]) for name in wanted)
    assert not any(parameter.requires_grad for parameter in predictor.parameters())
    assert convolutions == [layer for layer in predictor.modules() if isinstance(layer, nn.Conv2d)] != []
    assert (predictor.channels, predictor.latent_size) == (plain.channels, plain.latent_size)


def test_layers_of_other_sizes_stay(engine):
    class Predictor(nn.Module):
        channels, latent_size = 4, 8

        def __init__(self):
            super().__init__()
            self.wide, self.odd, self.thin = nn.Linear(32, 48, bias=False), nn.Linear(24, 16), nn.Linear(16, 8)

        def forward(self, x, t, context):
            return self.wide(x)

    plain = Predictor().requires_grad_(False)
    x = torch.randn(2, 8, 32)
    wanted = nn.functional.linear(x, plain.wide.weight)
    predictor = InFp8(plain)
    assert type(plain.wide) is Fp8Linear and type(plain.odd) is type(plain.thin) is nn.Linear
    found, again = predictor(x, None, None), predictor(x, None, None)
    assert torch.equal(found, again) and plain.wide.layer.roundings == 1
    assert 1e-3 < (found - wanted).norm() / wanted.norm() < 0.1  # 3 bits of mantissa
    torch.testing.assert_close(predictor(x[:1, :3], None, None), wanted[:1, :3])  # three rows: not in FP8


def test_a_step_in_fp8_is_that_of_full_precision_but_for_rounding(engine, sd_folder, render, cameras, monkeypatch):
    monkeypatch.setattr('nemo_dreamfusion.modules.guidance.stable_diffusion.check_fp8', lambda device=None: None)
    wanted, guidance = loss(prepared(sd_folder), render, cameras), prepared(sd_folder, networks=IN_FP8)
    found = loss(guidance, render, cameras)
    assert found.loss.item() != wanted.loss.item() and found.loss.item() == pytest.approx(wanted.loss.item(), rel=0.1)
    layers = [layer for layer in guidance.noise_predictor.modules() if type(layer) is Fp8Linear]
    rounds = {layer.layer.calls for layer in layers}
    assert rounds == {0, 1}  # texts of 77 tokens and times are not in FP8
    loss(guidance, render, cameras)
    assert all(layer.layer.roundings == min(layer.layer.calls, 1) for layer in layers)
    guidance.record_networks()
    assert guidance.noise_model.network is guidance.noise_predictor and guidance.encode.stand_in is not None


@pytest.mark.parametrize(
    ('options', 'way_out'),
    [
        ({'compile': True}, 'model.guidance.networks.compile'),
        ({'cuda_graphs': True}, 'model.guidance.networks.cuda_graphs'),
    ],
)
def test_what_fp8_excludes_is_refused(options, way_out):
    with refusal(FP8, True, way_out):
        NetworkOptions(fp8=True, **options)
    NetworkOptions(fp8=True, cuda_graphs='auto')


def test_a_trained_unet_and_an_engine_exclude_fp8():
    with refusal(FP8, True, FP8):
        HuggingFaceGuidance(score=VariationalScoreDistillation(), networks=IN_FP8)
    with refusal(FP8, True, FP8):
        EngineGuidance(plan_dir='engines', checkpoint='pocket', networks=IN_FP8)


def test_a_cpu_is_refused_before_any_weights_are_looked_for():
    guidance = guidance_of('no-such-folder', networks=IN_FP8)
    with refusal(FP8, True, FP8):
        guidance.check_prompts(PromptSet('a red cube'))
    with refusal(FP8, True, FP8):
        guidance.prepare(PromptSet('a red cube'), 'cpu')


def test_a_gpu_without_fp8_is_refused_by_its_name(capability, engine):
    capability(8, 6)
    with refusal(FP8, True, 'A GPU', '8.9', FP8):
        check_fp8(GPU)
    capability(8, 9)
    check_fp8(GPU)
    check_fp8()
    with refusal(FP8, True, 'cpu', FP8):
        check_fp8(CPU)


def test_a_missing_transformer_engine_is_one_sentence(capability, monkeypatch):
    capability(9, 0)
    monkeypatch.setitem(sys.modules, 'transformer_engine.pytorch', None)
    with pytest.raises(MissingPackageError) as caught:
        guidance_of('no-such-folder', networks=IN_FP8).check_prompts(PromptSet('a red cube'))
    message = str(caught.value)
    assert (
        'transformer_engine' in message
        and "pip install --no-build-isolation 'transformer-engine[pytorch]" in message
        and f'{FP8}=false' in message
    )
    assert '\n' not in message
