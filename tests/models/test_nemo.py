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

"""NeMo's own interfaces: restoring with its options, its optimizers and schedulers, and exp_manager."""

import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import lightning.pytorch as pl
import nemo.core.classes.common as nemo_common
import pytest
import torch
from hydra.utils import instantiate
from nemo.core.classes import ModelPT
from nemo.core.optim.adan import Adan
from nemo.core.optim.optimizers import AVAILABLE_OPTIMIZERS
from omegaconf import OmegaConf, open_dict
from refusals import NO_VALUE, refusal
from small_model import TowardColour, small_config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nemo_dreamfusion.data.cameras import cameras_from_orbit
from nemo_dreamfusion.launch.trainer import make_trainer
from nemo_dreamfusion.models.dreamfusion import LOGGED, DreamFusion
from nemo_dreamfusion.models.nemo_archive import check_archive
from nemo_dreamfusion.ops.adan import FusedAdan

ROOT = Path(__file__).parents[2]
FRESH = """
import sys, torch
from nemo.core.classes import ModelPT
import nemo_dreamfusion.models.dreamfusion
from nemo_dreamfusion.data.cameras import cameras_from_orbit
same = torch.ones(2)
cameras = cameras_from_orbit(torch.arange(2) * 90.0, same * 15, same * 3.2, same * 36, 12, 12)
torch.save(ModelPT.restore_from(sys.argv[1], map_location='cpu').render_cameras(cameras).image, sys.argv[2])
"""


def image(model):
    same = torch.ones(2)
    return model.render_cameras(
        cameras_from_orbit(torch.arange(2) * 90.0, same * 15, same * 3.2, same * 36, 12, 12)
    ).image


@pytest.fixture(scope='module')
def archive(tmp_path_factory):
    """A saved object, and itself."""
    path = tmp_path_factory.mktemp('nemo') / 'object.nemo'
    torch.manual_seed(0)
    model = DreamFusion(small_config('model.prompt=a duck').model)
    with torch.no_grad():
        model.nerf.features_net[-1].bias += torch.tensor([1.0, -1.0, 0.5])
    model.save_to(str(path))
    return path, model


# Archives


@pytest.mark.slow
def test_a_fresh_process_renders_the_identical_image(archive, tmp_path):
    command = [sys.executable, '-c', FRESH, str(archive[0]), str(tmp_path / 'image.pt')]
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': str(torch.get_num_threads())}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    assert torch.equal(torch.load(tmp_path / 'image.pt'), image(archive[1]))


def test_return_config_builds_nothing(archive, monkeypatch):
    monkeypatch.setattr(DreamFusion, '__init__', None)
    config = DreamFusion.restore_from(str(archive[0]), return_config=True)
    assert config.prompt == 'a duck' and config.target.endswith('.DreamFusion')


def test_override_config_path_takes_a_file_or_a_node(archive, tmp_path):
    config = DreamFusion.restore_from(str(archive[0]), return_config=True)
    with open_dict(config):
        config.renderer.max_steps = 16
        config.prompt = 'a goose'
    OmegaConf.save(config, tmp_path / 'other.yaml')
    for other in (config, str(tmp_path / 'other.yaml')):
        model = DreamFusion.restore_from(str(archive[0]), override_config_path=other, map_location='cpu')
        assert model.prompts.prompt == 'a goose' and model.renderer.max_steps == 16
        assert torch.equal(model.nerf.table, archive[1].nerf.table)
        assert not torch.equal(image(model), image(archive[1]))


@pytest.mark.parametrize('form', ['node', 'file', 'whole'])
@pytest.mark.parametrize(('key', 'near'), [('promt', 'prompt'), ('nerf.bownd', 'nerf.bound')])
def test_override_config_path_with_an_unknown_key_is_refused(archive, tmp_path, form, key, near):
    config = OmegaConf.create(OmegaConf.to_container(small_config().model, resolve=True))
    OmegaConf.update(config, key, 1)
    OmegaConf.save(config, file := str(tmp_path / 'other.yaml'))
    other = {'node': config, 'file': file, 'whole': OmegaConf.create({'model': config})}[form]
    with refusal(f'model.{key}', NO_VALUE, f'model.{near}'):
        DreamFusion.restore_from(str(archive[0]), override_config_path=other, map_location='cpu')


def test_strict(archive, tmp_path):
    with tarfile.open(archive[0]) as file:
        file.extractall(tmp_path, filter='data')
    state = torch.load(tmp_path / 'model_weights.ckpt')
    del state['nerf.table']
    bias = [name for name in state if name.startswith('nerf.features_net') and name.endswith('.bias')][-1]
    state[bias] += 1
    torch.save(state, tmp_path / 'model_weights.ckpt')
    with tarfile.open(tmp_path / 'less.nemo', 'w') as file:
        for name in ('model_config.yaml', 'model_weights.ckpt'):
            file.add(tmp_path / name, f'./{name}')
    with pytest.raises(ValueError, match=r'nerf\.table'):
        DreamFusion.restore_from(str(tmp_path / 'less.nemo'), map_location='cpu')
    model = DreamFusion.restore_from(str(tmp_path / 'less.nemo'), map_location='cpu', strict=False)
    assert torch.equal(model.state_dict()[bias], state[bias])
    assert torch.equal(model.nerf.table, DreamFusion(model.cfg).nerf.table)  # as a run's first step finds it


def test_artifacts_travel(archive, tmp_path):
    """An object needs no file but its own; what a user registers comes along."""
    (tmp_path / 'notes.txt').write_text('made on a Tuesday')
    model = DreamFusion.restore_from(str(archive[0]), map_location='cpu')
    with open_dict(model.cfg):
        model.cfg.notes = str(tmp_path / 'notes.txt')
    model.register_artifact('notes', model.cfg.notes)
    model.save_to(str(tmp_path / 'with.nemo'))
    check_archive(tmp_path / 'with.nemo')
    again = DreamFusion.restore_from(str(tmp_path / 'with.nemo'), map_location='cpu')
    name = again.cfg.notes.removeprefix('nemo:')
    assert name.endswith('_notes.txt')
    with tarfile.open(tmp_path / 'with.nemo') as file:
        assert file.extractfile(f'./{name}').read() == b'made on a Tuesday'


def test_from_pretrained_says_that_there_is_none():
    with pytest.raises(FileNotFoundError, match='list_available_models'):
        DreamFusion.from_pretrained('a_hamburger')


def test_nemo_restores_no_package_that_is_not_on_its_list(archive, monkeypatch):
    """The trap that register_with_nemo is there for."""
    prefixes = [prefix for prefix in nemo_common.ALLOWED_TARGET_PREFIXES if 'dreamfusion' not in prefix]
    assert len(prefixes) == len(nemo_common.ALLOWED_TARGET_PREFIXES) - 1
    monkeypatch.setattr(nemo_common, 'ALLOWED_TARGET_PREFIXES', prefixes)
    with pytest.raises(Exception, match='unsafe target'):
        ModelPT.restore_from(str(archive[0]), map_location='cpu')
    ModelPT._set_model_restore_state(is_being_restored=False)


# What NeMo's ModelPT does on its own


def test_a_node_of_the_name_model_is_forbidden():
    config = small_config().model
    with open_dict(config):
        config.model = {'a': 1}
    with pytest.raises(ValueError, match='model'):
        DreamFusion(config)


def test_data_nodes_of_nemos_are_ignored():
    config = small_config().model
    with open_dict(config):
        config.train_ds, config.validation_ds, config.test_ds = ({'batch_size': 3} for _ in range(3))
    model = DreamFusion(config)
    assert model._train_dl is model._validation_dl is model._test_dl is None


def test_without_optim_there_is_no_optimizer():
    config = small_config().model
    with open_dict(config):
        del config.optim
    assert DreamFusion(config).configure_optimizers() is None


# Optimizers and schedulers


def optimizers(*overrides, **added):
    config = small_config(*overrides).model
    with open_dict(config):
        for key, value in added.items():
            OmegaConf.update(config, key, value)
    model = DreamFusion(config, trainer=pl.Trainer(max_steps=10, logger=False, enable_checkpointing=False))
    return model.setup_optimization(), model


@pytest.mark.parametrize(
    ('choice', 'name', 'kind'),
    [('adam', 'adam', torch.optim.Adam), ('adam', 'adamw', torch.optim.AdamW), ('adan', 'adan', FusedAdan)],
)
def test_optimizers_by_their_names_in_nemos_registry(choice, name, kind):
    (optimizer, _), _ = optimizers(f'model/optim={choice}', f'model.optim.name={name}', 'model.optim.lr=3e-3')
    assert type(optimizer) is kind
    assert [group['lr'] for group in optimizer.param_groups] == pytest.approx([3e-3, 3e-2])


def test_our_adan_makes_the_steps_of_nemos():
    ours, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 50)) for _ in range(2))
    options = dict(lr=5e-3, weight_decay=2e-5, max_grad_norm=5.0)
    mine, nemos = AVAILABLE_OPTIMIZERS['adan']([ours], **options), Adan([theirs], **options, foreach=False)
    for _ in range(5):
        for parameter, optimizer in ((ours, mine), (theirs, nemos)):
            optimizer.zero_grad()
            (parameter**4).sum().backward()
            optimizer.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_nemos_parameter_groups_take_the_place_of_ours():
    (optimizer, _), model = optimizers(optim_param_groups={'nerf': {'lr': 0.5}})
    assert [group['lr'] for group in optimizer.param_groups] == [0.5]
    assert len(optimizer.param_groups[0]['params']) == len(list(model.parameters()))


def test_schedulers_scale_both_groups(tmp_path):
    config = small_config('trainer.max_steps=6', 'model/optim=adam')
    with open_dict(config):
        config.model.optim.sched = {'name': 'CosineAnnealing', 'warmup_steps': 2, 'min_lr': 1e-5}
    rates = []

    class Rates(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            rates.append([group['lr'] for group in trainer.optimizers[0].param_groups])

    trainer_and_model(config, tmp_path, Rates())
    network, encoding = zip(*rates)
    assert network[0] < network[1] > network[2] > network[-1] >= 1e-5
    assert encoding[1] == pytest.approx(10 * network[1], rel=0.01)


@pytest.mark.parametrize(
    ('override', 'key', 'value', 'way_out'),
    [
        ('model.optim.name=fused_adam', 'model.optim.name', 'fused_adam', 'model.optim.name=adam'),
        ('model.optim.name=adma', 'model.optim.name', 'adma', "'adam'"),
        ('+model.optim.wieght_decay=1', 'model.optim.wieght_decay', NO_VALUE, 'model.optim.weight_decay'),
        ('model.optim.lr=0', 'model.optim.lr', 0, 'greater than 0'),
        ('model.optim.lr=null', 'model.optim.lr', None, 'greater than 0'),
    ],
)
def test_an_optimizer_that_cannot_be_is_refused_before_any_work(override, key, value, way_out):
    if 'fused_adam' in override and 'fused_adam' in AVAILABLE_OPTIMIZERS:
        pytest.skip('apex is installed')
    with refusal(key, value, way_out):
        DreamFusion(small_config(override).model)


# exp_manager


def trainer_and_model(config, folder, *callbacks, guidance=None):
    """A fit without exp_manager."""
    model = DreamFusion(config.model)
    model.guidance = guidance or TowardColour()
    options = {**config.trainer, 'enable_progress_bar': False, 'enable_model_summary': False, 'limit_val_batches': 0}
    trainer = pl.Trainer(**options, default_root_dir=folder, callbacks=list(callbacks))
    trainer.fit(model, datamodule=instantiate(config.model.data))
    return trainer, model


def managed(folder, *overrides, steps=6, callbacks=()):
    """A fit under exp_manager, as the command sets it up."""
    quiet = (
        '+trainer.enable_progress_bar=false',
        '+trainer.enable_model_summary=false',
        '+trainer.limit_val_batches=0',
    )
    config = small_config(
        *quiet, f'trainer.max_steps={steps}', 'model.iters=6', 'trainer.log_every_n_steps=1', *overrides
    )
    model = DreamFusion(config.model)
    model.guidance = TowardColour()
    trainer = make_trainer(config, folder, list(callbacks))
    trainer.fit(model, datamodule=instantiate(config.model.data))
    return trainer, model


def test_tensorboard_has_the_losses_and_the_time_of_each_step(tmp_path):
    trainer, _ = managed(tmp_path)
    events = EventAccumulator(str(next(tmp_path.rglob('events.out.*')).parent))
    events.Reload()
    scalars = events.Tags()['scalars']
    assert {*LOGGED, 'train_step_timing in s'} <= set(scalars)
    assert len(events.Scalars('loss')) == 6
    assert all(event.value > 0 for event in events.Scalars('train_step_timing in s'))


def test_always_save_nemo_leaves_the_object_at_each_checkpoint(tmp_path):
    seen = []

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            seen.append(len(list(tmp_path.rglob('*.nemo'))))

    params = 'exp_manager.checkpoint_callback_params'
    options = (f'+{params}.always_save_nemo=true', f'{params}.every_n_train_steps=2')
    _, model = managed(tmp_path, *options, callbacks=[Look()])
    assert seen[0] == 0 and seen[-1] == 1
    (path,) = tmp_path.rglob('*.nemo')
    assert torch.equal(image(DreamFusion.restore_from(str(path), map_location='cpu')), image(model))


def test_resume_if_exists_goes_on(tmp_path):
    options = ('exp_manager.checkpoint_callback_params.every_n_train_steps=2',)
    first, _ = managed(tmp_path, *options, steps=4)
    second, model = managed(tmp_path, *options, steps=6)
    assert (first.global_step, second.global_step) == (4, 6)
    assert [step for step, *_ in model.guidance.calls] == [4, 5]


def test_save_best_model_leaves_the_best_of_all(tmp_path):
    """NeMo loads it back at the end of the fit, strictly: there is nothing of the guidance in it."""
    params = 'exp_manager.checkpoint_callback_params'
    options = (f'+{params}.save_best_model=true', f'{params}.save_top_k=1', f'{params}.every_n_train_steps=2')
    always = (f'{params}.save_nemo_on_train_end=true', 'model.prompt=a duck')
    trainer, model = managed(tmp_path / 'run', *options, *always)
    best = DreamFusion.load_from_checkpoint(trainer.checkpoint_callback.best_model_path)
    (path,) = tmp_path.rglob('*.nemo')
    assert torch.equal(image(DreamFusion.restore_from(str(path), map_location='cpu')), image(best))


def test_early_stopping_watches_the_loss(tmp_path):
    options = ('+exp_manager.create_early_stopping_callback=true', '+model.data.steps_per_epoch=2')
    watch = '+exp_manager.early_stopping_callback_params'
    stops = f'{watch}={{monitor: loss, patience: 1, min_delta: 100.0}}'  # nothing improves by so much
    trainer, _ = managed(tmp_path, *options, stops)
    assert trainer.global_step == 4


def test_max_time_per_run_saves_and_the_next_run_goes_on(tmp_path):
    class Clock(pl.Callback):
        """An hour passes at the third step."""

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 2:
                (timer,) = [c for c in trainer.callbacks if isinstance(c, pl.callbacks.Timer)]
                timer._offset = 3600

    limit = '+exp_manager.max_time_per_run=00:01:00:00'
    first, _ = managed(tmp_path, '+exp_manager.create_preemption_callback=false', limit, callbacks=[Clock()])
    assert first.global_step == 3
    assert list(tmp_path.rglob('*-last.ckpt'))
    second, model = managed(tmp_path, '+exp_manager.create_preemption_callback=false')
    assert second.global_step == 6 and [step for step, *_ in model.guidance.calls] == [3, 4, 5]


@pytest.mark.slow
def test_weights_and_biases_offline(tmp_path, monkeypatch):
    pytest.importorskip('wandb')
    for name, value in {'WANDB_MODE': 'offline', 'WANDB_SILENT': 'true', 'WANDB_DIR': str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    trainer, _ = managed(tmp_path / 'run', 'exp_manager.create_wandb_logger=true', 'model.prompt=a duck')
    (logger,) = [one for one in trainer.loggers if isinstance(one, pl.loggers.WandbLogger)]
    assert logger.experiment.name == 'a duck'
    logger.experiment.finish()
    (record,) = tmp_path.rglob('offline-run-*/*.wandb')
    for _ in range(300):  # a process of its own writes it
        if b'gradient_norm' in record.read_bytes():
            break
        time.sleep(0.1)
    else:
        pytest.fail('no losses in the offline record')
