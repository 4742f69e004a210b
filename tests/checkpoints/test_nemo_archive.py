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

"""Unsafe or damaged archives are refused with the reason."""

from __future__ import annotations

import copy
import io
import json
import pickle
import tarfile
from pathlib import Path

import pytest
import torch
import yaml
from refusals import NO_VALUE, refusal

from nemo_dreamfusion.checkpoints import nemo_configurations
from nemo_dreamfusion.checkpoints.nemo_archive import read_archive, write_archive
from nemo_dreamfusion.checkpoints.nemo_checkpoint import NemoCheckpoint
from nemo_dreamfusion.checkpoints.nemo_configurations import check_archive_config


def weights(state=None) -> bytes:
    stream = io.BytesIO()
    torch.save({'model.x': torch.arange(3.0)} if state is None else state, stream)
    return stream.getvalue()


def pack(path: Path, members: dict[str, bytes | tarfile.TarInfo], mode: str = 'w:') -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            member = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            data = b'' if isinstance(content, tarfile.TarInfo) else content
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


WHOLE = {'./model_config.yaml': b'a: 1\n', './model_weights.ckpt': weights()}


@pytest.mark.parametrize('mode', ['w:', 'w:gz'])
def test_a_whole_archive_is_read(tmp_path, mode):
    archive = read_archive(pack(tmp_path / 'a.nemo', {**WHOLE, './x/y.txt': b'hello'}, mode))
    assert archive.config == {'a': 1} and archive.files == {'x/y.txt': b'hello'}
    assert torch.equal(archive.state['model.x'], torch.arange(3.0))
    assert read_archive(archive.path, weights=False).state == {}


def test_transformer_engines_extra_state_is_left_out_and_the_rest_is_read(archive, tmp_path):
    whole = read_archive(archive('sd1_v2.4'))
    extra = {f'{key}._extra_state': io.BytesIO(b'scales') for key in list(whole.state)[:3]}
    members = {'./model_config.yaml': yaml.safe_dump(whole.config).encode()}
    members['./model_weights.ckpt'] = weights({**whole.state, **extra})
    found = read_archive(pack(tmp_path / 'te.nemo', members))
    assert set(found.state) == set(whole.state)
    NemoCheckpoint(str(tmp_path / 'te.nemo')).unet(torch.float32)


def link(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, '/etc/passwd'
    return member


class Harmful:
    def __reduce__(self):
        return (print, ('harm',))


@pytest.mark.parametrize(
    ('members', 'reason'),
    [
        ({**WHOLE, '../evil': b'x'}, 'points outside'),
        ({**WHOLE, '/etc/evil': b'x'}, 'points outside'),
        ({**WHOLE, './link': link('./link')}, 'link'),
        ({'./model_weights.ckpt': weights()}, 'no model_config.yaml'),
        ({'./model_config.yaml': b'a: 1\n'}, 'no model_weights.ckpt'),
        ({**WHOLE, './model_config.yaml': b'a: [1\n'}, 'not plain YAML'),
        ({**WHOLE, './model_config.yaml': b'!!python/object/apply:os.system [ls]\n'}, 'not plain YAML'),
        ({**WHOLE, './model_config.yaml': b''}, 'not a mapping'),
        ({**WHOLE, './model_weights.ckpt': weights({'model.x': Harmful()})}, 'pickled code'),
        ({**WHOLE, './model_weights.ckpt': pickle.dumps(Harmful(), protocol=2)}, 'pickled code|damaged'),
        ({**WHOLE, './model_weights.ckpt': weights()[:200]}, 'damaged|cut short'),
        ({**WHOLE, './model_weights.ckpt': weights([1, 2])}, 'not a dictionary'),
    ],
)
def test_bad_archives_are_refused(tmp_path, capsys, members, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        read_archive(pack(tmp_path / 'bad.nemo', members))
    assert 'bad.nemo' in str(caught.value) and not set('\n\x1b') & set(str(caught.value))
    assert 'harm' not in capsys.readouterr().out


def test_missing_and_truncated_files_are_refused(archive, tmp_path):
    with refusal(str(tmp_path / 'none.nemo'), NO_VALUE, '.nemo'):
        read_archive(tmp_path / 'none.nemo')
    content = Path(archive('sd1_v2.4')).read_bytes()
    for size in (0, 100, 4096, 1_000_000, len(content) - 500_000):
        (tmp_path / 'cut.nemo').write_bytes(content[:size])
        with pytest.raises(ValueError, match='cut short|damaged'):
            read_archive(tmp_path / 'cut.nemo')
    (tmp_path / 'text.nemo').write_text('this is no archive' * 100)
    with pytest.raises(ValueError, match='damaged'):
        read_archive(tmp_path / 'text.nemo')


def changed(source: str, path: Path, *, config=lambda c: c, state=lambda s: s) -> NemoCheckpoint:
    """The archive with its configuration or tensors changed."""
    whole = read_archive(source)
    write_archive(path, config(dict(whole.config)), state(dict(whole.state)), {})
    return NemoCheckpoint(str(path))


def without(word: str):
    return lambda state: {key: value for key, value in state.items() if word not in key}


def test_wrong_keys_and_shapes_are_refused_by_name(archive, tmp_path):
    source = archive('sd1_v2.4')
    with refusal('a.nemo', NO_VALUE, 'vae'):
        _ = changed(source, tmp_path / 'a.nemo', state=without('first_stage_model')).parts
    with pytest.raises(ValueError, match=r'lacks .*middle_block\.0'):
        changed(source, tmp_path / 'b.nemo', state=without('middle_block.0.in_layers')).unet(torch.float32)
    extra = {'model.model.diffusion_model.extra.weight': torch.zeros(1)}
    with pytest.raises(ValueError, match='has also extra.weight'):
        changed(source, tmp_path / 'c.nemo', state=lambda s: {**s, **extra}).unet(torch.float32)
    wrong = {'model.first_stage_model.quant_conv.bias': torch.zeros(3)}
    with pytest.raises(ValueError, match='quant_conv.bias has the shape'):
        changed(source, tmp_path / 'd.nemo', state=lambda s: {**s, **wrong}).vae(torch.float32)


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        ({'unet_config': None}, 'no section unet_config'),
        ({'parameterization': 'flow'}, 'parameterization'),
        ({'beta_schedule': 'sigmoid'}, 'beta_schedule'),
        ({'cond_stage_config': {'_target_': 'x.BERTEmbedder'}}, 'BERTEmbedder'),
        ({'cond_stage_config': {'_target_': 'x.FrozenCLIPEmbedder', 'layer': 'pooled'}}, 'pooled'),
    ],
)
def test_configurations_that_are_no_stable_diffusion_are_refused(archive, tmp_path, change, reason):
    checkpoint = changed(archive('sd1_v2.4'), tmp_path / 'a.nemo', config=lambda c: {**c, **change})
    with pytest.raises(ValueError, match=reason):
        checkpoint.unet(torch.float32)
        checkpoint.scheduler_config()
        checkpoint.text_encoder(torch.float32)


def test_an_archive_is_written_whole_or_not_at_all(tmp_path):
    write_archive(tmp_path / 'a.nemo', {'a': 1}, {'x': torch.zeros(2)}, {'t/v.json': b'{}'})
    before = (tmp_path / 'a.nemo').read_bytes()
    with pytest.raises(yaml.YAMLError):
        write_archive(tmp_path / 'a.nemo', {'a': object()}, {}, {})
    assert (tmp_path / 'a.nemo').read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ['a.nemo']
    with tarfile.open(tmp_path / 'a.nemo', 'r:') as archive:  # as NeMo writes it: uncompressed, ./ in front
        assert archive.getnames() == ['./model_config.yaml', './t/v.json', './model_weights.ckpt']


OTHER_VALUES = {None: 7, False: True, True: False, 2: 3, 32: 16, 'vanilla': 'linear', 'crossattn': 'hybrid'}
ONLY_KEYS = [
    *(('unet_config', key, only) for key, only in nemo_configurations._UNET.only.items()),
    *(('first_stage_config', key, only) for key, only in nemo_configurations._VAE.only.items()),
    *(('ddconfig', key, only) for key, only in nemo_configurations._VAE_SIZES.only.items()),
    *(('cond_stage_config', key, only) for key, only in nemo_configurations._TEXT.only.items()),
    *((None, key, only) for key, only in nemo_configurations._MODEL.only.items()),
]


def with_key(section: str | None, key: str, value: object):
    """From a configuration to the same with a key of a section (or of the top) changed, or removed by Ellipsis."""

    def change(config: dict) -> dict:
        config = copy.deepcopy(config)
        place = {None: config, 'ddconfig': config['first_stage_config']['ddconfig']}.get(section) or config[section]
        if value is ...:
            del place[key]
        else:
            place[key] = value
        return config

    return change


@pytest.mark.parametrize(('section', 'key', 'only'), ONLY_KEYS)
def test_another_value_of_a_nemo_key_with_few_values_is_refused_by_name(archive, tmp_path, section, key, only):
    other = [16] if only.values == ([],) else OTHER_VALUES[only.values[0]]
    config = with_key(section, key, other)(read_archive(archive('sd1_v2.4'), weights=False).config)
    with refusal(key, json.dumps(other), json.dumps(only.values[0])):
        check_archive_config(config, 'x.nemo')
    check_archive_config(with_key(section, key, only.values[0])(config), 'x.nemo')


@pytest.mark.parametrize('section', ['unet_config', 'first_stage_config', 'ddconfig', 'cond_stage_config'])
def test_an_unknown_nemo_key_is_refused_unless_it_is_off(archive, section):
    config = read_archive(archive('sd1_v2.4'), weights=False).config
    check_archive_config(with_key(section, 'key_of_a_fork', None)(config), 'x.nemo')
    with refusal('key_of_a_fork', 3, 'Remove the key'):
        check_archive_config(with_key(section, 'key_of_a_fork', 3)(config), 'x.nemo')


@pytest.mark.parametrize(('section', 'key'), [('unet_config', 'context_dim'), ('ddconfig', 'ch_mult')])
def test_a_nemo_key_that_lacks_is_named(archive, section, key):
    config = read_archive(archive('sd1_v2.4'), weights=False).config
    with refusal(key, NO_VALUE, 'Stable Diffusion'):
        check_archive_config(with_key(section, key, ...)(config), 'x.nemo')


def test_sd_nemo_refuses_before_any_tensor_is_read(archive, tmp_path, monkeypatch):
    checkpoint = changed(archive('sd1_v2.4'), tmp_path / 'a.nemo', config=with_key('unet_config', 'num_classes', 10))
    monkeypatch.setattr('torch.load', lambda *_, **__: pytest.fail('weights were read'))
    with refusal('num_classes', 10, 'null'):
        checkpoint.check()


def test_git_lfs_pointers_are_named(tmp_path):
    pointer = f'version https://git-lfs.github.com/spec/v1\noid sha256:{0:064d}\nsize 3438167534\n'
    (tmp_path / 'a.nemo').write_text(pointer)
    with refusal('a.nemo', NO_VALUE, 'lfs pull'):
        NemoCheckpoint(str(tmp_path / 'a.nemo')).check()
