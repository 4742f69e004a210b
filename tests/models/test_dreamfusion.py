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


"""DreamFusion as a NeMo model: archives, steps, and what a checkpoint may hold."""

import io
import tarfile
from collections import Counter

import lightning.pytorch as pl
import pytest
import torch
from hydra.utils import instantiate
from nemo.core.classes import ModelPT
from omegaconf import OmegaConf
from refusals import NO_VALUE, refusal
from small_model import TowardColour, small_config

from nemo_dreamfusion.data.cameras import cameras_from_orbit
from nemo_dreamfusion.launch.configuration import load_config
from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.models.nemo_archive import check_archive
from nemo_dreamfusion.modules.guidance.prompts import remove_view_bias
from nemo_dreamfusion.ops.backends import select
from nemo_dreamfusion.ops.backends.cpu.library import library


def views(count=2, size=12):
    same = torch.ones(count)
    return cameras_from_orbit(torch.arange(count) * 90.0, same * 15, same * 3.2, same * 36, size, size)


def fitted(config, folder, **trainer_options):
    torch.manual_seed(0)
    model = DreamFusion(config.model)
    model.guidance = TowardColour()
    options = {**config.trainer, **trainer_options, 'enable_progress_bar': False, 'enable_model_summary': False}
    trainer = pl.Trainer(**options, default_root_dir=folder)
    trainer.fit(model, datamodule=instantiate(config.model.data))
    return model, trainer


def repacked(source, target, change):
    """A copy of an archive whose members {name: bytes} were changed, without checksums, as NeMo itself writes them."""
    with tarfile.open(source) as archive:
        files = [member for member in archive.getmembers() if member.isfile() and 'SHA256SUMS' not in member.name]
        members = {member.name: archive.extractfile(member).read() for member in files}
    with tarfile.open(target, 'w') as archive:
        for name, data in change(members).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.fixture(scope='module')
def archive(tmp_path_factory):
    """A saved model and the render that it must give again."""
    path = tmp_path_factory.mktemp('archive') / 'object.nemo'
    torch.manual_seed(0)
    model = DreamFusion(small_config().model)
    model.save_to(str(path))
    return path, model.render_cameras(views()).image


@pytest.mark.parametrize('restore', [DreamFusion.restore_from, ModelPT.restore_from])
def test_a_restored_model_renders_the_identical_image(archive, restore):
    path, image = archive
    restored = restore(str(path), map_location='cpu')
    assert isinstance(restored, DreamFusion)
    assert torch.equal(restored.render_cameras(views()).image, image)


def test_a_fit_moves_the_scene_toward_what_the_guidance_wants(tmp_path):
    config = small_config('trainer.max_steps=40', 'model.background.probability=0.0', 'model.optim.lr=1e-2')
    red = torch.tensor([1.0, 0.0, 0.0])

    def distance(model):
        render = model.render_cameras(views())
        inside = render.opacity[..., 0] > 0.5
        return (render.image[inside] - red).abs().mean()

    model, _ = fitted(config, tmp_path)
    assert distance(model) < 0.3 * distance(DreamFusion(config.model))


def test_guidance_is_in_no_checkpoint_optimizer_or_archive(config, tmp_path):
    model, trainer = fitted(config, tmp_path)
    assert not [key for key in model.state_dict() if 'guidance' in key]
    held = {id(p) for group in trainer.optimizers[0].param_groups for p in group['params']}
    assert held == {id(p) for p in model.parameters()}
    assert not held & {id(p) for p in model.guidance.network.parameters()}
    trainer.save_checkpoint(tmp_path / 'last.ckpt')
    saved = torch.load(tmp_path / 'last.ckpt', weights_only=False)['state_dict']
    assert saved.keys() == model.state_dict().keys()


def test_the_hash_grid_learns_as_much_faster_as_it_is_told(tmp_path):
    _, trainer = fitted(small_config('model.encoding_lr_ratio=3'), tmp_path, max_steps=1)
    rates = [group['lr'] for group in trainer.optimizers[0].param_groups]
    assert len(rates) == 2 and rates[1] == pytest.approx(3 * rates[0])


@pytest.mark.parametrize(
    ('config', 'rate', 'ratio'),
    [
        ('dreamfusion', 8e-3, 1.25),
        ('dreamfusion-edit', 2e-3, 10),
        ('dreamfusion-dmtet', 2e-3, 10),
        ('dreamfusion-mesh', 2e-3, 10),
        ('dreamfusion-sd', 1e-3, 10),
    ],
)
def test_each_recipe_has_the_rates_that_it_was_measured_with(config, rate, ratio):
    model = load_config(config).model
    assert (model.optim.lr, model.encoding_lr_ratio) == (rate, ratio)


def test_phases_follow_the_schedule(tmp_path):
    config = small_config('model.latent_iter_ratio=0.5', 'model.resolution=16', 'model.latent_resolution=8')
    model, _ = fitted(config, tmp_path)
    sizes = [shape[1] for _, _, shape, _ in model.guidance.calls]
    assert [latent for _, latent, _, _ in model.guidance.calls] == [True] * 4 + [False] * 4
    assert sizes == [8] * 4 + [16] * 4


def test_each_step_has_its_own_cameras_and_a_rerun_has_the_same(config, tmp_path):
    first, _ = fitted(config, tmp_path)
    azimuths = [call[3] for call in first.guidance.calls]
    assert len({tuple(a) for a in azimuths}) == len(azimuths)
    torch.rand(7)
    second, _ = fitted(config, tmp_path)
    assert azimuths == [call[3] for call in second.guidance.calls]
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_ranks_and_seeds_draw_differently(config):
    model = DreamFusion(config.model)
    model.__dict__.update(generator=torch.Generator(), host_generator=torch.Generator())
    draws, host_draws = set(), set()
    for seed in (0, 1):
        for step in (0, 1, 2):
            model.options['seed'] = seed
            draws.add(torch.rand(1, generator=model.seed_step(step)).item())
            host_draws.add(torch.rand(1, generator=model.host_generator).item())
    assert len(draws) == 6 and host_draws == draws


def test_predict_gives_renders(config, tmp_path):
    model, trainer = fitted(config, tmp_path, max_steps=1)
    renders = trainer.predict(model, datamodule=instantiate(config.model.data))
    assert len(renders) == config.model.data.test.views
    size = config.model.data.test.height
    assert renders[0].image.shape == (1, size, size, 3)


def test_validate_and_test_run(config, tmp_path):
    model, trainer = fitted(config, tmp_path, max_steps=1)
    trainer.validate(model, datamodule=instantiate(config.model.data), verbose=False)
    trainer.test(model, datamodule=instantiate(config.model.data), verbose=False)
    assert model.render_cameras(views()).image.isfinite().all()


def test_a_root_target_in_the_configuration_does_no_harm(config, tmp_path):
    OmegaConf.set_struct(config, False)
    config.model._target_ = 'nemo_dreamfusion.models.dreamfusion.DreamFusion'
    DreamFusion(config.model).save_to(str(tmp_path / 'a.nemo'))
    assert DreamFusion.restore_from(str(tmp_path / 'a.nemo'), map_location='cpu')


def test_an_archive_of_another_back_end_is_refused_by_name(archive, tmp_path):
    def wider(members):
        config = OmegaConf.create(members['./model_config.yaml'].decode())
        config.nerf.encoder_cfg.num_levels = 5
        return {**members, './model_config.yaml': OmegaConf.to_yaml(config).encode()}

    repacked(archive[0], tmp_path / 'b.nemo', wider)
    with refusal(str(tmp_path / 'b.nemo'), NO_VALUE, 'model.nerf'):
        DreamFusion.restore_from(str(tmp_path / 'b.nemo'), map_location='cpu')
    assert not ModelPT._is_model_being_restored()  # NeMo leaves it set when a restore fails


def test_the_first_weights_are_a_function_of_the_seed():
    found = []
    for seed in (1, 1, 2):
        torch.rand(1)
        before = torch.get_rng_state()
        found.append(DreamFusion(small_config(f'model.seed={seed}').model).state_dict())
        assert torch.equal(torch.get_rng_state(), before)
    same, other = ([torch.equal(value, found[k][name]) for name, value in found[0].items()] for k in (1, 2))
    assert all(same) and not all(other)


def test_a_fit_goes_on_from_an_archive_of_the_same_parts_only(archive):
    path, image = archive
    model = DreamFusion(small_config('model.seed=3').model)
    assert not torch.equal(model.render_cameras(views()).image, image)
    model.start_from(str(path))
    assert torch.equal(model.render_cameras(views()).image, image)
    for override, held, way_out in (
        ('model.nerf.encoder_cfg.num_levels=5', 'nerf.table', 'model/nerf'),
        ('model/renderer=nerfacc', 'TorchNGPRaymarchingRenderer', 'model/renderer'),
        ('model/background=torchngp', 'RandomBackground', 'model/background'),
    ):
        other = DreamFusion(small_config(override).model)
        before = {name: value.clone() for name, value in other.state_dict().items()}
        with refusal('restore_from_path', path, held, way_out):
            other.start_from(str(path))
        assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_an_archive_that_holds_a_tcnn_field_says_so(archive, tmp_path):
    def to_tcnn(members):
        config = OmegaConf.create(members['./model_config.yaml'].decode())
        config.nerf = {'_target_': 'nemo_dreamfusion.modules.nerf.tcnn.TCNNField'}
        return {**members, './model_config.yaml': OmegaConf.to_yaml(config).encode()}

    repacked(archive[0], tmp_path / 't.nemo', to_tcnn)
    with refusal('model.nerf', 'TCNNField', 'TorchNGPField', 'model/nerf'):
        DreamFusion(small_config().model).start_from(str(tmp_path / 't.nemo'))


def test_a_configuration_in_an_archive_cannot_call_what_it_likes(archive, tmp_path):
    def evil(members):
        config = OmegaConf.create(members['./model_config.yaml'].decode())
        config.nerf = {'_target_': 'os.system', 'command': 'echo hacked'}
        return {**members, './model_config.yaml': OmegaConf.to_yaml(config).encode()}

    repacked(archive[0], tmp_path / 'c.nemo', evil)
    with refusal('model.nerf._target_', 'os.system', 'nemo_dreamfusion.*'):
        DreamFusion.restore_from(str(tmp_path / 'c.nemo'), map_location='cpu')


def test_damaged_archives_are_refused_with_the_reason(archive, tmp_path):
    with refusal('restore_from_path', str(tmp_path / 'none.nemo'), '.nemo file'):
        check_archive(tmp_path / 'none.nemo')
    whole = archive[0].read_bytes()
    for share in (0.0, 0.3, 0.6):  # behind the files a tar is padded
        (tmp_path / 'cut.nemo').write_bytes(whole[: int(len(whole) * share)])
        with refusal(str(tmp_path / 'cut.nemo'), NO_VALUE, 'Copy it again'):
            check_archive(tmp_path / 'cut.nemo')
    repacked(archive[0], tmp_path / 'less.nemo', lambda m: {k: v for k, v in m.items() if 'weights' not in k})
    with refusal(str(tmp_path / 'less.nemo'), 'model_weights.ckpt', 'save_to'):
        check_archive(tmp_path / 'less.nemo')
    repacked(archive[0], tmp_path / 'out.nemo', lambda m: {**m, '../escape.txt': b'x'})
    with refusal(str(tmp_path / 'out.nemo'), '../escape.txt', 'save_to'):
        check_archive(tmp_path / 'out.nemo')


@pytest.mark.parametrize(
    ('override', 'key', 'value', 'way_out'),
    [
        ("model.prompt=''", 'model.prompt', NO_VALUE, "model.prompt='a hamburger'"),
        ('model.latent_iter_ratio=1.5', 'model.latent_iter_ratio', 1.5, 'at most 1'),
        ('model.min_ambient_ratio=-1', 'model.min_ambient_ratio', -1, 'at least 0'),
        ('model.encoding_lr_ratio=0', 'model.encoding_lr_ratio', 0, 'greater than 0'),
        (
            'model.nerf._target_=nemo_dreamfusion.modules.nerf.torchngp.Nothing',
            *(
                'model.nerf._target_',
                'nemo_dreamfusion.modules.nerf.torchngp.Nothing',
                'nemo_dreamfusion/conf/model/nerf',
            ),
        ),
        (
            'model.nerf._target_=nemo_dreamfusion.modules.materials.basic_shading.BasicShading',
            *('model.nerf._target_', 'nemo_dreamfusion.modules.materials.basic_shading.BasicShading', 'RadianceField'),
        ),
        ('+model.nerf.bounds=2', 'model.nerf.bounds', NO_VALUE, 'model.nerf.bound'),
        ('model.seed=-1', 'model.seed', -1, 'at least 0'),
        ('model.compile=inductr', 'model.compile', 'inductr', 'model.compile=inductor'),
        ('model.side_prompt=aside', 'model.side_prompt', 'aside', 'model/views=nemo'),  # beside a table of views
        ('model.view_prompts.back=tail', 'model.view_prompts.back', 'tail', 'model/views=nemo'),
    ],
)
def test_bad_settings_are_named(override, key, value, way_out):
    with refusal(key, value, way_out):
        DreamFusion(small_config(override).model)


def test_a_trainer_of_the_other_lightning_is_refused(config):
    other = pytest.importorskip('pytorch_lightning')
    with pytest.raises(ValueError, match='lightning.pytorch'):
        DreamFusion(config.model, trainer=other.Trainer(accelerator='cpu', logger=False, enable_checkpointing=False))


def one_step(config, folder, precision):
    """The model after one shaded step with the orientation loss, and that step's loss."""
    model, trainer = fitted(config, folder, precision=precision, max_steps=1)
    return model, trainer.callback_metrics['loss'].item()


@pytest.mark.filterwarnings('ignore:.*AMP with fp16 is not supported on CPU')
def test_every_spelling_of_full_and_mixed_precision_fits(tmp_path):
    config = small_config('model.latent_iter_ratio=0', 'model.albedo_iter_ratio=0', 'model/loss=dreamfusion')
    _, full = one_step(config, tmp_path, 32)
    for precision in ('32', '32-true'):
        assert one_step(config, tmp_path, precision)[1] == full
    for precision in (16, '16-mixed', 'bf16', 'bf16-mixed'):  # on a CPU Lightning takes bf16 for 16
        model, mixed = one_step(config, tmp_path, precision)
        assert mixed != full and mixed == pytest.approx(full, rel=0.02)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('precision', ['bf16-true', '64-true'])
def test_a_scene_in_half_or_double_is_refused(config, tmp_path, precision):
    with refusal('trainer.precision', precision, '32'):
        fitted(config, tmp_path, precision=precision, max_steps=1)


@pytest.mark.parametrize('tf32', [True, False])
def test_a_fit_sets_tf32(tmp_path, tf32):
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        fitted(small_config(f'model.tf32={tf32}'), tmp_path, max_steps=1)
        assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is tf32
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def test_half_precision_is_for_the_networks_alone(tmp_path, monkeypatch):
    """Rays, samples and sums stay float32: the fast operations take nothing else."""
    if library() is None:
        pytest.skip('the native CPU library was not built')
    backends, seen, choose = Counter(), Counter(), select.backend

    def spy(*tensors):
        found = choose(*tensors)
        backends[found] += 1
        seen.update(t.dtype for t in tensors if t is not None and t.is_floating_point())
        return found

    monkeypatch.setattr(select, 'backend', spy)
    config = small_config('model.loss.lambda_orientation=0.01')
    fitted(config, tmp_path, max_steps=2, precision='bf16-mixed')
    assert set(seen) == {torch.float32} and set(backends) == {'native'} and backends['native'] > 20


def test_compile_reaches_the_mlps_of_the_field_and_changes_no_result(tmp_path):
    config = small_config('model.compile=aot_eager')
    plain, _ = fitted(small_config(), tmp_path, max_steps=2)
    compiled, _ = fitted(config, tmp_path, max_steps=2)
    assert config.model.guidance.networks.compile == 'aot_eager'
    assert all(network._compiled_call_impl for network in (compiled.nerf.sigma_net, compiled.nerf.features_net))
    torch._dynamo.reset()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], value)


def test_views_that_nobody_shades_cost_no_normals(archive):
    model = DreamFusion.restore_from(str(archive[0]), map_location='cpu')
    assert model.validation_step(views(1), 0).normals is None and model.test_step(views(1), 0).normals is None
    assert model.predict_step(views(1), 0).normals is not None


def test_a_whole_text_for_a_view_replaces_prompt_and_addition():
    prompts = DreamFusion(
        small_config(
            'model/views=nemo',
            'model.prompt=a smiling dog',
            "model.view_prompts.back='the tail of a dog'",
            "model.side_prompt=', from aside'",
        ).model
    ).prompts
    views = {'front': 'a smiling dog, front view', 'overhead': 'a smiling dog, overhead view'}
    assert prompts.by_view() == {**views, 'side': 'a smiling dog, from aside', 'back': 'the tail of a dog'}

    def smiles_are_in_front(text):
        return (0.7, 0.1, 0.1, 0.1) if 'smiling' in text else (0.25, 0.25, 0.25, 0.25)

    views = {'front': 'a smiling dog, front view', 'overhead': 'a dog, overhead view'}
    assert remove_view_bias(prompts, smiles_are_in_front).by_view() == {
        **views,
        **{'side': 'a dog, from aside', 'back': 'the tail of a dog'},
    }


def test_no_models_are_listed():
    assert DreamFusion.list_available_models() == []


@pytest.fixture
def config():
    return small_config()
