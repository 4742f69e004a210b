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

"""What restoring takes besides a whole ``.nemo`` file of today, and what it says of the rest: one error, no stack."""

import io
import os
import tarfile

import huggingface_hub
import pytest
import torch
from nemo.core.classes import ModelPT
from omegaconf import OmegaConf, open_dict
from refusals import NO_VALUE, refusal
from small_model import small_config

from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.models.nemo_archive import check_archive
from nemo_dreamfusion.parts.texts import escape_text


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return DreamFusion(small_config().model)


@pytest.fixture(scope='module')
def archive(model, tmp_path_factory):
    path = tmp_path_factory.mktemp('restoring') / 'object.nemo'
    model.save_to(str(path))
    return path


def packed(path, config, archive):
    """A copy of ``archive`` with another configuration and no checksums."""
    with tarfile.open(archive) as source, tarfile.open(path, 'w') as target:
        for name, data in (
            ('./model_config.yaml', OmegaConf.to_yaml(config).encode()),
            ('./model_weights.ckpt', source.extractfile('./model_weights.ckpt').read()),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            target.addfile(info, io.BytesIO(data))
    return str(path)


def stored(archive):
    return DreamFusion.restore_from(str(archive), return_config=True)


def checkpoint(path, config, state, **more):
    """A checkpoint file as Lightning writes them."""
    torch.save(
        {'state_dict': state, 'hyper_parameters': {'cfg': config}, 'pytorch-lightning_version': '2.4.0'} | more, path
    )
    return path


def same_weights(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


# A prompt is data


@pytest.mark.parametrize('prompt', ['a ${red} cube', 'a ${oc.env:HOME} cube', 'an open ${brace', 'back\\\\${slash}'])
def test_a_prompt_that_looks_like_an_interpolation_is_kept_and_restored(prompt, tmp_path):
    config = small_config('model/views=nemo').model
    config.prompt = config.view_prompts.back = escape_text(prompt)
    made = DreamFusion(config)
    assert made.prompts.prompt == made.cfg.prompt == prompt
    made.save_to(str(tmp_path / 'object.nemo'))
    restored = DreamFusion.restore_from(str(tmp_path / 'object.nemo'))
    assert restored.prompts == made.prompts and restored.prompts.by_view()['back'] == prompt
    written = checkpoint(tmp_path / 'a.ckpt', made.hparams.cfg, made.state_dict())
    assert DreamFusion.load_from_checkpoint(written).prompts == made.prompts


# Older archives


@pytest.mark.parametrize('restore', [DreamFusion.restore_from, ModelPT.restore_from])
def test_options_of_older_releases_are_dropped(archive, model, tmp_path, restore):
    config = stored(archive)
    with open_dict(config):
        config.renderer.rays_per_chunk = 16384
    restored = restore(packed(tmp_path / 'old.nemo', config, archive), map_location='cpu')
    assert same_weights(restored, model) and 'rays_per_chunk' not in restored.cfg.renderer


def test_a_new_run_has_no_use_for_them():
    with refusal('model.renderer.rays_per_chunk', NO_VALUE, 'samples_per_chunk'):
        DreamFusion(small_config('+model.renderer.rays_per_chunk=9').model)


def test_a_refused_archive_is_one_error_without_nemos_stack(archive, tmp_path, capfd):
    config = stored(archive)
    with open_dict(config):
        config.renderer.rays_per_chnk = 9
    with refusal('model.renderer.rays_per_chnk', NO_VALUE, 'samples_per_chunk'):
        DreamFusion.restore_from(packed(tmp_path / 'odd.nemo', config, archive), map_location='cpu')
    printed = capfd.readouterr()
    assert 'Traceback' not in printed.out + printed.err and 'instantiation failed' not in printed.out + printed.err


# Other things than archives


def test_the_folder_of_an_unpacked_archive_is_restored(archive, model, tmp_path):
    with tarfile.open(archive) as file:
        file.extractall(tmp_path / 'unpacked', filter='data')
    assert same_weights(DreamFusion.restore_from(str(tmp_path / 'unpacked'), map_location='cpu'), model)
    (tmp_path / 'unpacked' / 'model_weights.ckpt').unlink()
    with refusal(str(tmp_path / 'unpacked'), 'model_weights.ckpt', 'save_to'):
        DreamFusion.restore_from(str(tmp_path / 'unpacked'), map_location='cpu')


@pytest.mark.parametrize('name', ['a.ckpt', 'a-last.ckpt.previous'])
def test_a_checkpoint_in_place_of_an_archive_is_named_as_one(tmp_path, name):
    (tmp_path / name).write_bytes(b'')
    with refusal(str(tmp_path / name), NO_VALUE, 'exp_manager.resume_if_exists=true', 'DreamFusion.nemo'):
        check_archive(tmp_path / name)


def test_a_text_file_is_refused_in_one_line(tmp_path):
    (tmp_path / 'text.nemo').write_text('a duck\n' * 200)
    with refusal(str(tmp_path / 'text.nemo'), NO_VALUE, 'another .nemo file') as caught:
        check_archive(tmp_path / 'text.nemo')
    assert '\n' not in str(caught.value)


def test_a_hub_that_does_not_answer_is_one_error(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, 'ENDPOINT', 'http://127.0.0.1:9')
    with refusal('somebody/something', NO_VALUE, 'restore_from') as caught:
        DreamFusion.from_pretrained('somebody/something')
    assert '\n' not in str(caught.value)


# Checkpoints


def test_a_checkpoint_is_loaded(model, tmp_path):
    path = checkpoint(tmp_path / 'a.ckpt', model.cfg, model.state_dict())
    loaded = DreamFusion.load_from_checkpoint(str(path))
    assert same_weights(loaded, model) and loaded.prompts.prompt == model.prompts.prompt


class Harmful:
    def __reduce__(self):
        return os.mkdir, ('harmed',)


def test_a_checkpoint_runs_no_code(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = checkpoint(tmp_path / 'evil.ckpt', model.cfg, model.state_dict(), more=Harmful())
    with refusal(str(path), NO_VALUE, 'plain data'):
        DreamFusion.load_from_checkpoint(str(path))
    assert not (tmp_path / 'harmed').exists() and not DreamFusion._is_model_being_restored()
    torch.load(path, weights_only=False)  # it would have
    assert (tmp_path / 'harmed').is_dir()
