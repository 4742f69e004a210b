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

"""A prompt is data: whatever signs it holds, it arrives as it was written, and nothing in it is interpolated."""

import os
import shlex

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from nemo_dreamfusion.launch.arguments import comma_note, prepare_arguments, split_arguments
from nemo_dreamfusion.launch.configuration import load_config, prepare_config
from nemo_dreamfusion.launch.overrides import TEXT_KEYS, prepare_overrides, split_items, unquote
from nemo_dreamfusion.launch.prompts_file import quoted
from nemo_dreamfusion.launch.run_folder import config_text
from nemo_dreamfusion.models.nemo_archive import REQUIRED_MEMBERS

PRINTABLE = ''.join(map(chr, range(32, 127)))
# '???' is OmegaConf's mark of a value that is missing, and refused as such.
SIGNS = (
    st.text(alphabet=st.sampled_from(PRINTABLE + 'é红🍔\u2028'), max_size=24)
    | st.text(alphabet=st.sampled_from('\\\'"${}[](),=: ~a'), max_size=12)
).filter(lambda text: text != '???')


def text_of(word: str) -> str:
    """What a word means: itself, or what stands between Hydra's quotes around the whole of it."""
    return word if unquote(word) is None else unquote(word)


def read(override: str) -> str:
    """Read one override as Hydra and OmegaConf do, without the rest of a configuration."""
    return OmegaConf.create({'text': OverridesParser.create().parse_override(override).value()}).text


@pytest.mark.parametrize('sign', PRINTABLE)
def test_each_printable_sign_of_a_prompt_arrives(sign):
    text = f'a {sign} duck{sign}, {sign}{sign}red'
    (override,) = prepare_overrides([f'model.prompt={text}'])
    assert read(override) == text


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(SIGNS)
def test_any_prompt_is_read_as_it_was_written(text):
    plain, in_quotes = prepare_overrides([f'model.prompt={text}', f'model.prompt={quoted(text)}'])
    assert read(plain) == text_of(text) and read(in_quotes) == text


HARD = [
    *(
        '${oc.env:HOME}',
        'a \\${x} duck\\\\${y}\\',
        "'it's'",
        'null',
        '1e3',
        'red, blue',
        'a = (b) [c] {d}: ~e',
        'true',
    ),
    *('"', "'", '\\', '#1', '$x `y` !z', '50% off; rm -rf * | & <b>', '', '${', '红 🍔'),
]


def test_prompts_are_in_the_configuration_as_they_were_written():
    for text in HARD:
        config = load_config(overrides=[f'model.prompt={text}', f'model.negative_prompt={quoted(text)}'])
        assert config.model.prompt == config.model.negative_prompt == text
        assert OmegaConf.to_container(config, resolve=True)['exp_manager']['wandb_logger_kwargs']['name'] == text


@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@given(SIGNS, st.sampled_from(sorted(TEXT_KEYS)))
def test_every_text_setting_is_read_so(text, key):
    (override,) = prepare_overrides([f'{key}={quoted(text)}'])
    assert override.startswith(f'{key}=') and read(override) == text


@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@given(st.lists(SIGNS, min_size=1, max_size=4))
def test_a_list_of_quoted_prompts_is_split_between_them(texts):
    items = split_items(','.join(quoted(text) for text in texts))
    assert [unquote(item) for item in items] == texts


def test_a_list_on_the_command_line_is_one_run_for_each():
    for words in (
        ['--multirun', 'model.prompt=a hamburger,a (big) snowman'],
        ['model.prompt=choice(a hamburger,"a (big) snowman")', '-m'],
    ):
        assert prepare_arguments(words)[1:] == ["model.prompt='a hamburger','a (big) snowman'"]


def test_a_view_without_a_text_of_its_own_stays_null():
    config = load_config(overrides=['model.view_prompts.front=null', 'model.view_prompts.back=a ${duck}, seen'])
    assert config.model.view_prompts.front is None and config.model.view_prompts.back == 'a ${duck}, seen'


def test_the_sentence_of_what_is_edited_is_a_text_too():
    for text in ('a hamburger, on a plate', "it's a cube (red)", 'a "red" cube', 'a ${model.seed} cube', '1984'):
        assert load_config(overrides=[f'model.edit.source_prompt={text}']).model.edit.source_prompt == text
    assert load_config(overrides=['model.edit.source_prompt=null']).model.edit.source_prompt is None


def test_a_comma_is_said_to_be_part_of_the_prompt_and_how_to_write_a_list():
    note = comma_note(['trainer.max_steps=1', "model.prompt=a red cube, it's blue"])
    words = shlex.split(note.partition('write ')[2])
    options, overrides = split_arguments(words)
    assert options == ['--multirun'] and prepare_overrides(overrides, multirun=True) == [
        "model.prompt='a red cube','it\\'s blue'"
    ]
    for words in (['model.prompt=a cube'], ['model.prompt="a, b"'], ['-m', 'model.prompt=a,b'], ['name=a,b']):
        assert comma_note(words) is None


SECRET = 'DREAMFUSION_TEST_SECRET'


@pytest.mark.parametrize('key', sorted(TEXT_KEYS))
def test_no_text_reads_an_environment_variable(key, monkeypatch, tmp_path):
    monkeypatch.setenv(SECRET, 'secret')
    text = f'a ${{oc.env:{SECRET}}} cube'
    composed = load_config(overrides=['model/views=nemo', f'{key}={text}'])
    assert OmegaConf.select(composed, key) == text
    for member in REQUIRED_MEMBERS:  # what an edit starts from
        (tmp_path / member).touch()
    programmed = load_config(overrides=['model/views=nemo', f'restore_from_path={tmp_path}'])
    OmegaConf.update(programmed, key, text)  # as from a user's YAML
    programmed = prepare_config(programmed, 'fit')
    assert OmegaConf.select(programmed, key) == text
    assert 'secret' not in OmegaConf.to_yaml(programmed, resolve=True)
    assert prepare_config(programmed, 'fit').model == programmed.model  # however often it is prepared


def test_a_setting_that_refers_to_a_prompt_takes_it_as_it_stands(monkeypatch):
    monkeypatch.setenv(SECRET, 'secret')
    for text in ('a ${red} cube', f'a ${{oc.env:{SECRET}}} cube', 'back\\\\${slash}', 'an open ${brace'):
        prepared = prepare_config(load_config(overrides=[f'model.prompt={quoted(text)}']), 'fit')
        assert prepared.exp_manager.wandb_logger_kwargs.name == prepared.model.prompt == text
        written = yaml.safe_load(config_text(prepared))
        assert written['model']['prompt'] == text
        assert OmegaConf.create(written['exp_manager']).wandb_logger_kwargs.name == text


def test_a_prompt_of_nemos_yaml_is_not_interpolated(monkeypatch):
    from nemo_2_2_1 import configuration

    monkeypatch.setenv(SECRET, 'secret')
    whole = OmegaConf.create(configuration())
    whole.trainer.update(accelerator='cpu', precision=32, max_steps=50)  # below NeMo's val_check_interval
    whole.model.prompt = f'a ${{oc.env:{SECRET}}} cube'
    prepared = prepare_config(whole, 'fit')
    assert prepared.model.prompt == f'a ${{oc.env:{SECRET}}} cube'
    assert whole.trainer.val_check_interval == 100 and prepared.trainer.val_check_interval == 50


def test_other_settings_are_interpolated_as_before(monkeypatch):
    monkeypatch.setenv(SECRET, 'here')
    config = load_config(
        overrides=[f'exp_manager.exp_dir=${{oc.env:{SECRET}}}/runs', 'model.iters=${trainer.max_steps}']
    )
    assert config.exp_manager.exp_dir == 'here/runs' and config.model.iters == config.trainer.max_steps


@pytest.mark.parametrize(
    'words',
    [
        ['trainer.max_steps=1', '--multirun', 'model.prompt=a,b', 'mode=fit'],
        ['trainer.max_steps=1', 'model.prompt=a,b', 'mode=fit', '-m'],
        ['-m', 'trainer.max_steps=1', 'model.prompt=a,b', 'mode=fit'],
    ],
)
def test_options_may_stand_anywhere(words):
    options, *overrides = prepare_arguments(words)
    assert options in ('-m', '--multirun')
    assert overrides == ['++trainer.max_steps=1', "model.prompt='a','b'", 'mode=fit']


def test_options_keep_their_values():
    words = ['mode=fit', '--config-name', 'dreamfusion-sd', '--cfg', 'job', '--info', 'defaults', '~trainer.precision']
    assert split_arguments(words) == (
        ['--config-name', 'dreamfusion-sd', '--cfg', 'job', '--info=defaults'],
        ['mode=fit', '~trainer.precision'],
    )
    assert split_arguments(['-i', 'mode=fit']) == (['--info=all'], ['mode=fit'])
    assert os.environ.get(SECRET) is None
