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

"""Conversions between .nemo archives and diffusers folders lose nothing."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import pytest
import torch
from commands import EXAMPLES, run_example
from omegaconf import OmegaConf
from refusals import NO_VALUE, refusal

from nemo_dreamfusion.checkpoints.convert import convert
from nemo_dreamfusion.checkpoints.diffusers_format import DiffusersCheckpoint
from nemo_dreamfusion.checkpoints.nemo_archive import read_archive
from nemo_dreamfusion.checkpoints.nemo_checkpoint import NemoCheckpoint
from nemo_dreamfusion.checkpoints.own_weights import OwnWeights
from nemo_dreamfusion.modules.guidance.guidance_mixing import GuidanceMixing
from nemo_dreamfusion.modules.guidance.huggingface import HuggingFaceGuidance
from nemo_dreamfusion.modules.guidance.nemo import NemoGuidance
from nemo_dreamfusion.parts.types import CameraBatch, PromptSet, RenderOutput

SCRIPT = EXAMPLES / 'convert_stable_diffusion.py'
PARTS = ('unet', 'vae', 'text_encoder')


def assert_same_folders(a: Path, b: Path) -> None:
    one, other = DiffusersCheckpoint(str(a)), DiffusersCheckpoint(str(b))
    for part in PARTS:
        first, second = one.tensors(part), other.tensors(part)
        assert set(first) == set(second)
        assert all(torch.equal(first[k], second[k]) and first[k].dtype == second[k].dtype for k in first)
    for part in ('unet', 'vae'):
        first, second = one.stored_config(part), other.stored_config(part)
        assert {k: second[k] for k in first} == first
    assert one.stored_config('scheduler') == other.stored_config('scheduler')
    assert one.tokenizer_files() == other.tokenizer_files()


def test_folder_to_nemo_and_back_is_exact(sd_folder, tmp_path):
    convert(str(sd_folder), str(tmp_path / 'a.nemo'))
    convert(str(tmp_path / 'a.nemo'), str(tmp_path / 'back'))
    assert_same_folders(sd_folder, tmp_path / 'back')
    convert(str(tmp_path / 'back'), str(tmp_path / 'b.nemo'))
    first, second = read_archive(tmp_path / 'a.nemo'), read_archive(tmp_path / 'b.nemo')
    assert set(first.state) == set(second.state)
    assert all(torch.equal(first.state[key], second.state[key]) for key in first.state)
    assert first.files == second.files


def test_half_precision_weights_stay_half(sd_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    half = Path(shutil.copytree(sd_folder, tmp_path / 'half'))
    for file in half.glob('*/*.safetensors'):
        save_file({k: v.half() if v.is_floating_point() else v for k, v in load_file(file).items()}, file)
    convert(str(half), str(tmp_path / 'a.nemo'))
    convert(str(tmp_path / 'a.nemo'), str(tmp_path / 'back'))
    assert_same_folders(half, tmp_path / 'back')


@pytest.mark.parametrize('name', ['sd1_2023_10', 'sd1_v2.4', 'sd2_v2.4_megatron_clip'])
def test_nemo_to_folder_and_back_keeps_every_tensor(archive, tmp_path, name):
    convert(archive(name), str(tmp_path / 'sd'))
    convert(str(tmp_path / 'sd'), str(tmp_path / 'again.nemo'))
    convert(str(tmp_path / 'again.nemo'), str(tmp_path / 'sd2'))
    assert_same_folders(tmp_path / 'sd', tmp_path / 'sd2')
    if name == 'sd1_v2.4':  # the layout that is written: the very same names and tensors
        before, after = read_archive(archive(name)).state, read_archive(tmp_path / 'again.nemo').state
        assert set(before) <= set(after)
        assert {key.rpartition('.')[0] for key in set(after) - set(before)} == {
            'model'
        }  # NeMo's other schedule tables
        assert all(torch.equal(before[key], after[key]) for key in before if key != 'model.betas')
        torch.testing.assert_close(before['model.betas'], after['model.betas'])


@pytest.mark.parametrize('name', ['sd1_2023_10', 'sd1_v2.4', 'sd2_v2.4_megatron_clip'])
@torch.no_grad()
def test_the_folder_gives_what_nemo_gave_and_diffusers_opens_it(archive, answers, tmp_path, name):
    known = answers(name)
    notes = convert(archive(name), str(tmp_path / 'sd'))
    assert any('tokenizer' in note for note in notes) and any('80 tokens' in note for note in notes)
    folder = DiffusersCheckpoint(str(tmp_path / 'sd'))
    unet, vae, text = (getattr(folder, part)(torch.float32) for part in PARTS)
    eps = unet(known['x'], known['t'], encoder_hidden_states=known['context']).sample
    torch.testing.assert_close(eps, known['eps'], rtol=0, atol=1e-4)
    moments = vae.encode(known['image']).latent_dist.parameters
    torch.testing.assert_close(moments, known['moments'], rtol=0, atol=1e-4)
    embeddings = text(known['tokens']).last_hidden_state
    torch.testing.assert_close(embeddings, known['text_embeddings'], rtol=0, atol=1e-4)


def test_v123_says_what_to_set_for_its_attention(archive, tmp_path):
    notes = convert(archive('sd1_v1.23_unnormalised_kv'), str(tmp_path / 'sd'))
    assert any('convert with unnormalised_kv=true' in note for note in notes)
    assert not DiffusersCheckpoint(str(tmp_path / 'sd')).attends_unnormalised()


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('sd1_v2.4', {}),
        ('sd1_v2.4', {'context_length': 77}),
        ('sd1_v2.4', {'context_length': 96}),
        ('sd1_v1.23_unnormalised_kv', {'unnormalised_kv': True}),
    ],
    ids=str,
)
def test_nemos_padding_and_attention_survive_the_round_trip(archive, sd_folder, tmp_path, name, options):
    """The same loss from the archive, from its folder, and from the archive that is made of the folder."""
    folder, again = str(tmp_path / 'sd'), str(tmp_path / 'again.nemo')
    tokenizer = str(sd_folder / 'tokenizer')
    convert(archive(name), folder, tokenizer=tokenizer, **options)
    convert(folder, again)
    before = gradient_of(NemoGuidance(checkpoint=archive(name), parts=OwnWeights(tokenizer=tokenizer), **options))
    for after in (HuggingFaceGuidance(source=folder), NemoGuidance(checkpoint=again)):
        found = gradient_of(after)
        assert torch.equal(found[0], before[0]) and torch.equal(found[1], before[1])
        assert after.embeddings.views.shape[1] == options.get('context_length', 80)
    plain = {'context_length': None} if 'context_length' not in options else {'context_length': 'auto'}
    if 'unnormalised_kv' in options:
        plain = {'unnormalised_kv': False}
    other = gradient_of(NemoGuidance(checkpoint=archive(name), parts=OwnWeights(tokenizer=tokenizer), **plain))
    assert not torch.equal(other[0], before[0])  # so what was kept matters


def test_an_archive_takes_a_padding_that_its_folder_does_not_have(sd_folder, tmp_path):
    convert(str(sd_folder), str(tmp_path / 'a.nemo'), context_length=24)
    assert NemoCheckpoint(str(tmp_path / 'a.nemo')).context_length() == 24
    convert(str(tmp_path / 'a.nemo'), str(tmp_path / 'sd'), context_length=None)
    assert DiffusersCheckpoint(str(tmp_path / 'sd')).context_length() is None


def test_a_whole_folder_opens_as_a_pipeline(sd_folder, archive, tmp_path):
    from diffusers import StableDiffusionPipeline

    convert(archive('sd1_v2.4'), str(tmp_path / 'sd'), tokenizer=str(sd_folder))
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / 'sd')
    assert type(pipeline.unet).__name__ == 'UNet2DConditionModel' and len(pipeline.tokenizer) > 10


def gradient_of(guidance) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and image gradient of one step."""
    guidance.prepare(PromptSet('a red cube'), 'cpu')
    side = guidance.image_size
    image = torch.rand(1, side, side, 3, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    flat = torch.ones(1, side, side, 1)
    camera = CameraBatch(
        torch.eye(4)[None], *(torch.tensor([v]) for v in (0.6, 30.0, 10.0, 3.0)), height=side, width=side
    )
    loss = guidance.loss(
        RenderOutput(image=image, opacity=flat, depth=flat, normals=None), camera,
        step=0, progress=0.0, latent=False, generator=torch.Generator().manual_seed(1),
    ).loss  # fmt: skip
    return loss.detach(), torch.autograd.grad(loss, image)[0]


def test_pocket_as_a_nemo_archive_guides_identically(tmp_path):
    if not (Path(DiffusersCheckpoint('pocket').name) / 'unet' / 'config.json').is_file():
        pytest.skip('the pocket weights are not made yet')
    convert('pocket', str(tmp_path / 'pocket.nemo'))
    mixing = GuidanceMixing(guidance_scale=5.0)
    folder = gradient_of(HuggingFaceGuidance(source='pocket', mixing=mixing))
    nemo = gradient_of(NemoGuidance(checkpoint=str(tmp_path / 'pocket.nemo'), mixing=mixing))
    assert torch.equal(folder[0], nemo[0]) and torch.equal(folder[1], nemo[1])


@pytest.mark.parametrize(
    ('source', 'target', 'said'),
    [
        ('a', 'b', ('target', NO_VALUE, '.nemo')),
        ('a.nemo', 'b.nemo', ('target', NO_VALUE, '.nemo')),
        ('none.nemo', 'new', ('none.nemo', NO_VALUE, '.nemo')),
        ('/no/such/folder', 'new.nemo', ('source', '/no/such/folder', 'pocket')),
        ('{sd}', '{taken}', ('target', NO_VALUE, 'force=true')),
        ('{sd}', 'new.nemo context_length=eighty', ('context_length', 'eighty', 'auto')),
        ('{sd}', 'new.nemo context_length=8', ('context_length', 8, 16)),
        ('{nemo}', 'new context_length=40', ('context_length', 40, 77)),
        ('{sd}', 'new.nemo unnormalised_kv=true', ('unnormalised_kv', True, '.nemo')),
        ('{nemo}', 'new unnormalised_kv=true', ('unnormalised_kv', True, 'unnormalised_kv=false')),
        ('{nemo}', 'new variant=fp16', ('variant', 'fp16', '.nemo')),
        ('{sd}', 'new.nemo tokenizer=/no/such', ('tokenizer', '/no/such', 'vocab.json', 'merges.txt')),
    ],
)
def test_bad_requests_are_refused_and_leave_nothing(sd_folder, archive, tmp_path, source, target, said):
    (tmp_path / 'taken.nemo').write_text('x')
    target, *options = target.split()
    options = OmegaConf.to_container(OmegaConf.from_dotlist(options))
    names = {'sd': sd_folder, 'taken': tmp_path / 'taken.nemo', 'nemo': archive('sd1_v2.4')}
    target = target.format(**names) if '{' in target else str(tmp_path / target)
    with refusal(*said):
        convert(source.format(**names), target, **options)
    assert [p.name for p in tmp_path.iterdir()] == ['taken.nemo']


@pytest.mark.parametrize(
    ('option', 'value'),
    [('variant', 'fp16'), ('unnormalised_kv', True), ('context_length', 80), ('head_channels', 64)],
)
def test_options_without_effect_on_one_file_are_refused(tmp_path, option, value):
    file = tmp_path / 'model.safetensors'
    file.write_bytes(b'looked at later')
    with refusal(option, value, 'left out'):
        convert(str(file), str(tmp_path / 'folder'), **{option: value})


def test_a_failure_half_way_leaves_nothing(sd_folder, tmp_path, monkeypatch):
    convert(str(sd_folder), str(tmp_path / 'a.nemo'))
    monkeypatch.setattr('nemo_dreamfusion.checkpoints.nemo_checkpoint.NemoCheckpoint.vae', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        convert(str(tmp_path / 'a.nemo'), str(tmp_path / 'sd'))
    assert [p.name for p in tmp_path.iterdir()] == ['a.nemo']


def test_the_command(sd_folder, tmp_path, capsys):
    arguments = [f'source={sd_folder}', f'target={tmp_path / "a.nemo"}']
    assert run_example(SCRIPT.name, *arguments) == 0
    said = capsys.readouterr().out
    assert 'Done:' in said and 'sd_nemo only' in said
    main = runpy.run_path(str(SCRIPT))['main']
    misspelt = (['toknizer=x'], 'Did you mean tokenizer?')
    for wrong, word in (misspelt, ([], 'exists already'), (['source='], 'source is missing')):
        with pytest.raises(SystemExit) as stopped:
            main([*arguments, *wrong])
        said = capsys.readouterr().err
        assert stopped.value.code == 2 and said.startswith('error:') and word in said
