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

"""``evaluate metric=...``: known answers end to end, stages that resume and split, and what is refused before any work."""

import csv
import json
import shutil

import pytest
import torch
from refusals import NO_VALUE, check_refusal, refusal
from small_clip import COLOURS, build_clip
from small_model import small_config

from nemo_dreamfusion import launch
from nemo_dreamfusion.launch.command_line import main_evaluate
from nemo_dreamfusion.launch.measuring.manifest import Manifest, Shard, read_manifest, read_shard
from nemo_dreamfusion.launch.measuring.runs import FinishedRun, find_archives
from nemo_dreamfusion.models.dreamfusion import DreamFusion

ORACLE = ['metric/encoder=own', 'metric.encoder._target_=small_clip.ColourOracle']
QUICK = ['metric=clip_r_precision', 'metric.azimuths=2', 'metric.size=32', 'metric.device=cpu']
OBJECTS = {'red-1': 'red', 'red-2': 'red', 'blue-1': 'blue', 'wrong': 'green'}  # run: colour


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Finished runs: two red things of one prompt, a blue one, and a green one whose prompt says yellow."""
    folder = tmp_path_factory.mktemp('runs')
    for seed, (name, colour) in enumerate(OBJECTS.items()):
        said = 'yellow' if name == 'wrong' else colour
        model = DreamFusion(small_config(f'model.prompt=A {said} ball', f'model.seed={seed}').model)
        with torch.no_grad():
            last = model.nerf.features_net[-1]
            last.weight.zero_()
            last.bias.copy_(20 * torch.tensor(COLOURS[colour]) - 10)  # through a sigmoid: 0 or 1
        (folder / name).mkdir()
        model.save_to(str(folder / name / 'DreamFusion.nemo'))
    return folder


@pytest.fixture
def candidates(tmp_path):
    path = tmp_path / 'captions.txt'
    path.write_text('\n'.join(f'a {colour} ball' for colour in COLOURS) + '\n')
    return f'metric.candidates={path}'


@pytest.fixture(autouse=True)
def plugin(monkeypatch):
    monkeypatch.setenv('NEMO_DREAMFUSION_PLUGINS', 'small_clip')


def evaluate(*overrides):
    return launch.evaluate(launch.load_config('evaluate', list(overrides)))


def files_in(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob('*') if path.is_file()}


def test_the_oracle_finds_what_the_objects_are(runs, candidates, tmp_path):
    out = tmp_path / 'out'
    made = evaluate(*QUICK, *ORACLE, candidates, f'runs={runs}', f'out={out}')
    colour = made.report['rows']['oracle']['colour']
    assert colour['mean'] == pytest.approx(
        2 / 3
    )  # red and blue are right, yellow looks green; two reds are one prompt
    assert (colour['low'], colour['high']) == (0, 1) and made.report['prompts'] == 3 and made.failed == ()
    assert made.report['rows']['oracle']['geometry']['mean'] == 0  # a shape has no colour
    assert '5 candidates, not 153' in (out / 'report' / 'report.md').read_text()
    with (out / 'report' / 'objects-oracle.csv').open() as stream:
        rows = {row['prompt']: row for row in csv.DictReader(stream)}
    assert rows['A red ball']['colour'] == '1.0' and rows['A yellow ball']['remark'] == 'taken for: a green ball.'
    assert (out / 'report' / 'objects-1.png').is_file()
    views = json.loads(next((out / 'render').glob('red-1-*/views.json')).read_text())
    assert [view['azimuth_deg'] for view in views['views']] == [0, -180, 0, -180]
    assert {view['elevation_deg'] for view in views['views']} == {30} and views['prompt'] == 'A red ball'

    # a second call makes nothing again; another encoder adds a row, and needs the pictures alone
    before = files_in(out / 'render')
    shifted = [*ORACLE, '+metric.encoder.name=shifted', '+metric.encoder.shift=1']
    again = evaluate(*QUICK, *shifted, candidates, f'out={out}', 'stages=[score,report]')
    assert set(again.report['rows']) == {'oracle', 'shifted'}
    assert again.report['rows']['oracle'] == made.report['rows']['oracle']
    assert again.report['rows']['shifted']['colour']['mean'] == 0
    pictures = {path: time for path, time in before.items() if path.suffix == '.png'}
    assert files_in(out / 'render').items() >= pictures.items()


def test_shards_are_the_whole_and_a_stopped_call_goes_on(runs, candidates, tmp_path):
    whole, out = tmp_path / 'whole', tmp_path / 'parts'
    one = evaluate(*QUICK, *ORACLE, candidates, f'runs={runs}', f'out={whole}')
    first = evaluate(*QUICK, *ORACLE, candidates, f'runs={runs}', f'out={out}', 'shard=1/3')
    assert first.report is None and first.text.startswith('2 of 4 objects are scored')
    evaluate(*QUICK, *ORACLE, candidates, f'runs={runs}', f'out={out}', 'shard=2/3', 'stages=[render]')
    with refusal('report', NO_VALUE, 'render and score'):
        evaluate(*QUICK, *ORACLE, candidates, f'out={out}', 'stages=[report]')
    torn = out / 'score-oracle' / '.torn.json'  # what a killed process leaves is never taken for a score
    torn.write_text('{')
    before = {path: time for path, time in files_in(out / 'render').items() if path.suffix == '.png'}
    last = evaluate(*QUICK, *ORACLE, candidates, f'runs={runs}', f'out={out}')
    assert last.report == one.report
    assert files_in(out / 'render').items() >= before.items()
    for path in (whole / 'score-oracle').glob('*.json'):
        assert (out / 'score-oracle' / path.name).read_bytes() == path.read_bytes()


def test_a_tiny_clip_from_its_folder(runs, candidates, tmp_path, run_command, capfd):
    clip = build_clip(tmp_path / 'clip')
    words = ['metric/encoder=clip', f'metric.encoder.source={clip}', 'metric.encoder.name=tiny']
    archive = runs / 'blue-1' / 'DreamFusion.nemo'
    words += [candidates, f'nemo_files=[{archive}]', f'out={tmp_path / "out"}']
    assert run_command(main_evaluate, *QUICK, *words) == 0
    said = capfd.readouterr().out
    assert '| tiny |' in said and 'one prompt has no interval' in said
    manifest = json.loads((tmp_path / 'out' / 'score-tiny' / 'manifest.json').read_text())
    assert len(manifest['settings']['weights_sha256']) == 64 and manifest['settings']['candidates'] == 5
    assert manifest['versions']['transformers']


def test_an_object_that_cannot_be_restored_leaves_the_others(runs, candidates, tmp_path, monkeypatch):
    restore = DreamFusion.restore_from

    def fail(path, **options):
        if 'red-2' in path:
            raise ValueError('its field is of another release')
        return restore(path, **options)

    monkeypatch.setattr(DreamFusion, 'restore_from', fail)
    made = evaluate(*QUICK, *ORACLE, candidates, f'runs={runs}', f'out={tmp_path / "out"}')
    (failure,) = made.failed
    assert failure.name.startswith('red-2-') and failure.reason == 'stage render: its field is of another release'
    assert made.report is None and '3 of 4' in made.text


def test_a_manifest_keeps_the_objects_of_earlier_calls(tmp_path):
    runs = [FinishedRun(name, f'a {name}', name * 8) for name in 'abc']
    for some in runs[1:], runs[:1]:
        Manifest(tmp_path / 'manifest.json', {'size': 32}, tuple(some)).write()
    assert read_manifest(tmp_path).runs == tuple(runs)


def test_a_resumed_run_counts_once(tmp_path):
    resumed, own_name = tmp_path / 'a' / 'DreamFusion.nemo', tmp_path / 'b' / 'run_1' / 'DreamFusion.nemo'
    before = tmp_path / 'a' / 'run_0' / 'DreamFusion.nemo'
    unfinished = tmp_path / 'c' / 'run_0' / 'DreamFusion.nemo'
    for path in (resumed, before, own_name, unfinished, tmp_path / 'c' / 'config.yaml'):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert find_archives(str(tmp_path), []) == [resumed, own_name]
    assert find_archives(str(before.parent), []) == [before]


def test_a_part_of_a_list():
    parts = [Shard(i, 3).part(range(8)) for i in (1, 2, 3)]
    assert parts == [[0, 3, 6], [1, 4, 7], [2, 5]] and Shard().part([1, 2]) == [1, 2]
    for wrong in ('0/3', '4/3', '3', 'a/b', '1/0', '-1/2', '1/2/3'):
        with refusal('shard', wrong, 'shard=1/4'):
            read_shard(wrong)


@pytest.mark.parametrize(
    ('arguments', 'key', 'value', 'way_out'),
    [
        (['runs=empty'], 'runs', 'empty', 'DreamFusion.nemo'),
        (['nemo_files=[missing.nemo]'], 'nemo_files', 'missing.nemo', '.nemo files'),
        ([], 'runs', NO_VALUE, 'nemo_files'),
        (['runs={runs}', 'prompts_file=more.txt'], 'prompts_file', 'a dog', 'no run was made for it'),
        (['runs={runs}', 'prompts_file=few.txt'], 'prompts_file', 'A blue ball', 'add the line'),
        (['runs={runs}', 'metric.candidates=few.txt'], 'metric.candidates', 'A blue ball', 'add the line'),
        (['runs={runs}', 'metric.candidates=twice.txt'], 'metric.candidates', 'a red ball.', 'remove one'),
        (['runs={runs}', 'shard=3/2'], 'shard', '3/2', 'shard=1/4'),
        (['runs={runs}', 'stages=[rendr]'], 'stages', 'rendr', 'stages=render'),
        (['runs={runs}', 'out=eval.json'], 'out', 'eval.json', 'out=results/evaluation'),
        (['runs={runs}', 'workers=2'], 'workers', 2, 'Leave workers out'),
        (['runs={runs}', 'metric.azimuth=2'], 'metric.azimuth', NO_VALUE, 'metric.azimuths'),
        (['runs={runs}', 'stages=[score]'], 'pictures', NO_VALUE, 'render'),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments, key, value, way_out, runs, candidates, tmp_path, monkeypatch, capfd, run_command
):
    texts = {'few.txt': 'a red ball\na yellow ball\n', 'more.txt': 'a red ball\na blue ball\na yellow ball\na dog\n'}
    for name, text in {**texts, 'twice.txt': 'a red ball\nA red ball.\n'}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / 'empty').mkdir()
    before = sorted(tmp_path.rglob('*'))
    monkeypatch.chdir(tmp_path)
    words = [*QUICK, *ORACLE, candidates, 'out=out', *(word.format(runs=runs) for word in arguments)]
    names = {word.partition('=')[0]: word for word in words}  # the last of each key
    assert run_command(main_evaluate, *names.values()) == 2
    said = capfd.readouterr().err
    assert said.startswith('error: ') and said.count('\n') == 1, said
    check_refusal(said, key, value, way_out)
    assert sorted(tmp_path.rglob('*')) == before


def test_a_folder_that_was_begun_otherwise(runs, candidates, tmp_path):
    words = [*QUICK, *ORACLE, candidates, f'out={tmp_path / "out"}']
    evaluate(*words, f'nemo_files=[{runs / "red-1" / "DreamFusion.nemo"}]')
    with refusal('elevation_deg', 45, 'set out'):
        evaluate(*words, f'runs={runs}', 'metric.elevation_deg=45')
    with refusal('candidates', 4, 'set out'):
        other = tmp_path / 'other.txt'
        other.write_text('a red ball\na blue ball\na yellow ball\na cat\n')
        evaluate(*words, f'runs={runs}', f'metric.candidates={other}')
    with refusal('candidates', 4, 'set out'):  # also of another encoder: the report compares them
        evaluate(*words, f'runs={runs}', f'metric.candidates={other}', '+metric.encoder.name=second')
    for other_words, key in (
        (['metric.elevation_deg=45'], 'elevation_deg'),
        ([f'metric.candidates={other}'], 'candidates'),
    ):
        with refusal(key, NO_VALUE, 'set out'):  # it would say of the scores what is not so
            evaluate(*words, 'stages=[report]', *other_words)
    manifest = tmp_path / 'out' / 'render' / 'manifest.json'
    before = manifest.read_bytes()
    with refusal('report', NO_VALUE, 'render and score'):
        evaluate(*words, 'stages=[report]', f'nemo_files=[{runs / "blue-1" / "DreamFusion.nemo"}]')
    assert manifest.read_bytes() == before
    with refusal('shard', NO_VALUE, 'must name the same runs'):
        evaluate(*words, f'runs={runs}', 'shard=1/2')
    copy = shutil.copytree(runs / 'red-1', tmp_path / 'copies' / 'again') / 'DreamFusion.nemo'
    with refusal(str(copy), NO_VALUE, 'remove one'):
        evaluate(*words, f'nemo_files=[{runs / "red-1" / "DreamFusion.nemo"},{copy}]')
    with refusal('shard', '1/2', 'with a metric'):
        evaluate(f'runs={runs}', 'shard=1/2')


def test_runs_of_the_pocket_world_are_found_too(runs, tmp_path):
    (tmp_path / 'deep' / 'er').mkdir(parents=True)
    shutil.copytree(runs / 'red-1', tmp_path / 'deep' / 'er' / 'run')
    made = evaluate(f'runs={tmp_path}', f'out={tmp_path / "eval.json"}', 'resolution=16')
    (failure,) = made.failed  # the pocket world knows no ball
    assert failure.name.endswith('run/DreamFusion.nemo') and 'a red ball' in failure.reason and made.objects == ()
