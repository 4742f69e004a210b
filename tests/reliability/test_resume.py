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

"""Whatever ends a run, the next one goes on from a good checkpoint and ends bit for bit where an unbroken one does."""

import signal
from functools import partial

import pytest
from refusals import NO_VALUE, check_refusal
from reliability import fits

THREADS = (1, 2)
STEPS = 12
VALIDATED = [
    *('++trainer.limit_val_batches=2', '++trainer.val_check_interval=3'),
    *('model.data.val.height=8', 'model.data.val.width=8'),
]
RECIPES = {
    'before_a_validation': (5, VALIDATED),
    'at_a_validation': (6, VALIDATED),
    'within_a_step': (7, ['++trainer.accumulate_grad_batches=2', 'exp_manager.ema.enable=true']),
    'end_of_an_epoch': (5, ['model.data.steps_per_epoch=5']),
    'schedule': (5, ['+model.optim.sched={name: CosineAnnealing, warmup_steps: 3, min_lr: 1e-4}']),
    'adan': (5, ['model/optim=adan', 'exp_manager.ema.enable=true']),
}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """For each number of threads: the folder of a run of 12 steps that nothing stopped."""
    folders = {threads: tmp_path_factory.mktemp(f'whole{threads}') for threads in THREADS}
    for threads, folder in folders.items():
        assert go(folder, threads=threads) == 0, log(folder)
        assert 'checkpoint' not in log(folder) and 'exists' not in log(
            folder
        )  # a first run has none, and need not say so
    return folders


def log(folder):
    return (folder / 'log').read_text()[-4000:]


def go(folder, *overrides, threads=1, before=fits.nothing):
    return fits.finish(fits.tiny(folder, f'trainer.max_steps={STEPS}', *overrides), folder / 'log', threads, before)


def assert_equal_runs(folder, whole, steps=STEPS):
    """Weights, occupancy grid, optimizer, schedule, average, random states, counters, and the metrics of every step."""
    found = fits.differences(
        fits.comparable(fits.last_checkpoint(whole)), fits.comparable(fits.last_checkpoint(folder))
    )
    assert not found, found
    assert fits.metrics_of(folder) == fits.metrics_of(whole) and len(fits.metrics_of(whole)) == steps


@pytest.mark.parametrize(('threads', 'number', 'code'), [(1, signal.SIGTERM, 143), (2, signal.SIGINT, 130)])
def test_a_signal_writes_a_checkpoint_says_so_and_a_resumed_run_ends_the_same(whole, tmp_path, threads, number, code):
    assert go(tmp_path, threads=threads, before=partial(fits.stop_at, 5, number)) == code
    assert fits.last_checkpoint(tmp_path)['global_step'] == 5 and not fits.ends(tmp_path)
    assert go(tmp_path, threads=threads) == 0, log(tmp_path)
    assert_equal_runs(tmp_path, whole[threads])


@pytest.mark.slow
@pytest.mark.parametrize('recipe', RECIPES)
def test_a_resumed_run_ends_the_same_whatever_the_recipe_and_wherever_it_stopped(tmp_path, recipe):
    batch, overrides = RECIPES[recipe]
    unbroken, resumed = tmp_path / 'unbroken', tmp_path / 'resumed'
    for folder in (unbroken, resumed):
        folder.mkdir()
    assert go(unbroken, *overrides) == 0, log(unbroken)
    assert go(resumed, *overrides, before=partial(fits.stop_at, batch, signal.SIGTERM)) == 143, log(resumed)
    assert 'gradients' not in fits.last_checkpoint(resumed)  # the step was finished
    assert go(resumed, *overrides) == 0, log(resumed)
    assert_equal_runs(resumed, unbroken)


@pytest.mark.slow
def test_twelve_kills_of_one_fit_at_random_and_within_the_writing_of_a_checkpoint(tmp_path):
    unbroken, folder = tmp_path / 'unbroken', tmp_path / 'killed'
    for base in (unbroken, folder):
        base.mkdir()
    longer, killed = f'trainer.max_steps={3 * STEPS}', []
    assert go(unbroken, longer) == 0, log(unbroken)
    for before in (
        partial(fits.die_while_writing, 0.5),  # half of the file is there
        partial(fits.die_at, 'fsync', 1),  # all of it, under its temporary name
        partial(fits.die_at, 'replace', 3),  # renamed; the one before it is not put away yet
        partial(fits.die_while_writing, 0.9),
    ):
        killed.append(go(folder, longer, before=before))
    assert set(killed) <= {-signal.SIGXFSZ, -signal.SIGKILL}, log(folder)
    assert fits.kill_at_random(fits.tiny(folder, longer), folder / 'log', kills=8, seed=1, steps=1) == 8
    assert go(folder, longer) == 0, log(folder)
    assert_equal_runs(folder, unbroken, 3 * STEPS)


def test_a_full_disk_ends_the_run_with_one_line_and_the_last_checkpoint_survives(whole, tmp_path):
    assert go(tmp_path, before=partial(fits.stop_at, 5, signal.SIGTERM)) == 143
    (path,) = (fits.folder_of(tmp_path) / 'checkpoints').glob('*-last.ckpt')
    before = path.read_bytes()
    assert go(tmp_path, before=partial(fits.limit_file_size, 0.5)) == 74
    error = log(tmp_path).splitlines()[-1]
    check_refusal(error, str(path.parent), NO_VALUE, 'make room', 'same command')
    assert 'Traceback' not in log(tmp_path)
    assert path.read_bytes() == before
    assert go(tmp_path) == 0, log(tmp_path)
    assert_equal_runs(tmp_path, whole[1])


def test_a_damaged_newest_checkpoint_is_set_aside_and_the_one_before_is_used(whole, tmp_path):
    assert go(tmp_path, before=partial(fits.stop_at, 7, signal.SIGTERM)) == 143
    folder = fits.folder_of(tmp_path) / 'checkpoints'
    (path,) = folder.glob('*-last.ckpt')
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert go(tmp_path) == 0, log(tmp_path)
    assert f'set aside as {path.name}.damaged' in (tmp_path / 'log').read_text()
    assert (folder / f'{path.name}.damaged').read_bytes() == data
    assert_equal_runs(tmp_path, whole[1])


def test_another_configuration_is_refused_with_the_difference(tmp_path):
    assert go(tmp_path, before=partial(fits.stop_at, 5, signal.SIGTERM)) == 143
    before = sorted(path.name for path in fits.folder_of(tmp_path).rglob('*'))
    assert go(tmp_path, 'model.optim.lr=2e-2') == 2
    check_refusal(log(tmp_path), 'model.optim.lr', 0.02, 0.01, 'exp_manager.exp_dir')
    (fits.folder_of(tmp_path) / 'run_0').mkdir()  # as NeMo leaves it when it is killed while it resumes
    (fits.folder_of(tmp_path) / 'config.yaml').rename(fits.folder_of(tmp_path) / 'run_0' / 'config.yaml')
    assert go(tmp_path, 'trainer.precision=bf16-mixed') == 2
    check_refusal(log(tmp_path), 'trainer.precision', 'bf16', '32')
    assert before == sorted(path.name for path in fits.folder_of(tmp_path).rglob('*') if path.name != 'run_0')


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    assert fits.finish(fits.tiny('/proc/results'), tmp_path / 'log') == 2
    assert 'exp_manager.exp_dir' in log(tmp_path) and 'Traceback' not in log(tmp_path)


def test_too_many_steps_that_are_not_finite_end_the_run_with_advice(tmp_path):
    cfg = fits.tiny(tmp_path, 'trainer.max_steps=12', 'max_skipped_in_a_row=3')
    cfg.model.guidance['nan_from'] = 5
    assert fits.finish(cfg, tmp_path / 'log') == 2
    assert 'model.optim.lr' in log(tmp_path).splitlines()[-1] and 'Traceback' not in log(tmp_path)
    saved = fits.last_checkpoint(tmp_path)
    assert saved['callbacks']['SkipNonFinite']['skipped'] > 0
    assert all(value.isfinite().all() for value in saved['state_dict'].values())
