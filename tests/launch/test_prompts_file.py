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

"""A list of prompts, and a run that is out of time: the command as a user or a scheduler gives it, again and again."""

import re

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image
from refusals import refusal
from small_model import NO_PICTURES, SMALL

from nemo_dreamfusion.launch.command_line import main
from nemo_dreamfusion.launch.prompts_file import expand_prompts_file, quoted
from nemo_dreamfusion.launch.run_folder import is_finished
from nemo_dreamfusion.launch.sweep import table
from nemo_dreamfusion.parts.prompt_list import read_prompts

PROMPTS = ['a red cube', 'a flying zeppelin', 'a blue sphere']  # quickly drawn, for the scores of a fit
TINY = [
    *SMALL,
    'trainer.max_steps=2',
    '+trainer.limit_val_batches=0',
    'mesh_resolution=16',
    'model.latent_resolution=8',
    'model.renderer.max_steps=24',
    'model.renderer.grid_resolution=8',
]


@pytest.mark.slow
def test_prompts_one_of_which_fails_and_a_second_call_that_skips(tmp_path, run_command, capsys):
    file = tmp_path / 'prompts.txt'
    file.write_text('# a list\n\n' + '\n'.join(PROMPTS) + '\na blue sphere\n')
    base = tmp_path / 'runs'
    arguments = [f'prompts_file={file}', f'exp_manager.exp_dir={base}', *TINY]
    assert run_command(main, *arguments) == 1
    said = capsys.readouterr()
    assert '2 finished, 0 skipped, 1 failed' in said.out
    assert 'zeppelin' in said.err
    runs = sorted(path.parent for path in base.glob('*/DreamFusion.nemo'))
    assert len(runs) == 2
    for run in runs:
        assert (run / 'preview.png').is_file() and is_finished(run, 2) and not is_finished(run, 3)
    rows = [line for line in (base / 'summary.md').read_text().splitlines() if line.startswith('| a ')]
    assert [row.split(' | ')[0] for row in rows] == [f'| {prompt}' for prompt in PROMPTS]
    assert ['failed' in row for row in rows] == ['zeppelin' in row for row in rows]
    heights = sum(round(Image.open(run / 'preview.png').height) for run in runs)
    gallery = (base / 'gallery.html').read_text(encoding='utf-8')
    for run in runs:
        assert f'src="{run.name}/turntable.webp"' in gallery and f'href="{run.name}/report.html"' in gallery
        assert (run / 'report.html').is_file() and (run / 'turntable.webp').is_file()
    assert gallery.count('<article') == len(PROMPTS) and gallery.count('loading="lazy"') == len(runs)
    sheet = Image.open(base / 'contact_sheet.png')
    assert sheet.width == 1024 and sheet.height >= heights
    written = {run: (run / 'DreamFusion.nemo').stat().st_mtime_ns for run in runs}

    file.write_text(file.read_text() + 'a red sphere\na red cube\na blue cube\n')  # two more, which two processes make
    arguments += [*NO_PICTURES, 'hydra/launcher=joblib', 'hydra.launcher.n_jobs=2']
    assert run_command(main, *arguments) == 1
    assert '2 finished, 2 skipped, 1 failed' in (base / 'summary.md').read_text()
    assert len(list(base.glob('*/DreamFusion.nemo'))) == 4
    assert written == {run: (run / 'DreamFusion.nemo').stat().st_mtime_ns for run in runs}


@pytest.mark.slow
def test_submitit_runs_a_prompt_in_a_job(tmp_path, run_command):
    """One of them: each job imports NeMo. Two at a time are joblib's above."""
    pytest.importorskip('hydra_plugins.hydra_submitit_launcher')
    (tmp_path / 'prompts.txt').write_text('a red cube\n', encoding='utf-8')
    arguments = [f'prompts_file={tmp_path}/prompts.txt', f'exp_manager.exp_dir={tmp_path}/runs', *TINY, *NO_PICTURES]
    assert run_command(main, *arguments, 'hydra/launcher=submitit_local') == 0
    assert '1 finished, 0 skipped, 0 failed' in (tmp_path / 'runs' / 'summary.md').read_text(encoding='utf-8')
    assert len(list((tmp_path / 'runs' / 'sweep' / '.submitit').rglob('*_result.pkl'))) == 1


@pytest.mark.slow
def test_a_run_out_of_time_asks_to_be_queued_again_and_goes_on(tmp_path, run_command, capsys):
    arguments = ['model.prompt=a duck', f'exp_manager.exp_dir={tmp_path}', *TINY, *NO_PICTURES, 'model.iters=50']
    limit = '+exp_manager.max_time_per_run=00:00:00:01'
    assert run_command(main, *arguments, 'trainer.max_steps=5000', limit) == 75
    assert 'Out of time at step' in capsys.readouterr().out
    (checkpoint,) = tmp_path.rglob('*-last.ckpt')
    step = int(re.search(r'step=(\d+)', checkpoint.name)[1])
    assert 0 < step < 5000 and not list(tmp_path.rglob('DreamFusion.nemo'))
    assert run_command(main, *arguments, f'trainer.max_steps={step + 1}') == 0
    folder = next(tmp_path.glob('a-duck-*'))
    assert is_finished(folder, step + 1)
    files = {path: path.stat().st_mtime_ns for path in folder.rglob('*')}
    capsys.readouterr()
    assert run_command(main, *arguments, f'trainer.max_steps={step + 1}') == 0
    assert f'Finished before: {folder}; remove it, or set trainer.max_steps higher' in capsys.readouterr().out
    assert files == {path: path.stat().st_mtime_ns for path in folder.rglob('*')}


@pytest.mark.parametrize(
    'text',
    ['a duck', "a dog's house", 'red, blue', r'back\slash', 'at the end \\', "it's \\'quoted\\'", 'a {b} [c] = $d'],
)
def test_any_prompt_survives_hydras_grammar(text, tmp_path):
    parser = OverridesParser.create()
    (sweep,) = parser.parse_overrides([f'model.prompt={quoted(text)},{quoted("other")}'])
    singles = parser.parse_overrides([f'model.prompt={value}' for value in sweep.sweep_string_iterator()])
    assert [single.value() for single in singles] == [text, 'other']


def test_a_prompts_file_becomes_a_sweep(tmp_path):
    file = tmp_path / 'list.txt'
    file.write_text('# comment\na duck\n\n a tree, green \na duck\n', encoding='utf-8')
    assert read_prompts(file) == ['a duck', 'a tree, green']
    assert expand_prompts_file(['model.seed=1', f'prompts_file={file}']) == [
        '--multirun',
        'model.seed=1',
        "model.prompt='a duck','a tree, green'",
    ]


@pytest.mark.parametrize(
    ('encoding', 'newline'),
    [('utf-8', '\n'), ('utf-8-sig', '\r\n'), ('utf-16', '\r\n'), ('utf-32', '\n'), ('utf-8-sig', '\r')],
)
def test_a_list_is_read_however_an_editor_saved_it(encoding, newline, tmp_path):
    file = tmp_path / 'list.txt'
    lines = ['a red cube', '', '# comment', 'un château rouge\u00a0 \t', '\ufeffa duck', '${x} 红']
    file.write_bytes(newline.join(lines).encode(encoding))
    assert read_prompts(file) == ['a red cube', 'un château rouge', 'a duck', '${x} 红']


def test_big_endian_utf_16_and_a_list_without_a_mark(tmp_path):
    file = tmp_path / 'list.txt'
    file.write_bytes('\ufeffa duck\r\n'.encode('utf-16-be'))
    assert read_prompts(file) == ['a duck']
    for content in ('a duck'.encode('utf-16-le'), 'château'.encode('latin-1')):
        file.write_bytes(content)
        with refusal('prompts_file', str(file), 'UTF-8'):
            read_prompts(file)


def test_a_list_may_be_named_in_quotes(tmp_path):
    file = tmp_path / 'my list.txt'
    file.write_text('a duck\n')
    assert expand_prompts_file([f"prompts_file='{file}'"]) == ['--multirun', "model.prompt='a duck'"]


def test_a_list_saved_on_windows_holds_the_same_prompts(tmp_path):
    file = tmp_path / 'list.txt'
    file.write_bytes(b'\xef\xbb\xbfa duck\r\na tree\r\n')
    assert read_prompts(file) == ['a duck', 'a tree']


@pytest.mark.parametrize('content', [None, '', '# only this\n'])
def test_a_prompts_file_without_prompts_is_refused(content, tmp_path):
    file = tmp_path / 'list.txt'
    if content is not None:
        file.write_text(content)
    with refusal('prompts_file', str(file), 'prompts' if content is None else 'one a line'):
        expand_prompts_file([f'prompts_file={file}'])


def test_the_table_keeps_its_columns_whatever_a_message_holds():
    rows = table([{'prompt': 'a | b', 'status': 'failed', 'remark': 'two\nlines', 'folder': ''}]).splitlines()
    assert rows[2] == '| a \\| b | failed |  |  | two lines |  |'
    assert rows[-1] == '0 finished, 0 skipped, 1 failed'
