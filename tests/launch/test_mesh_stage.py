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

"""Both stages and a mesh of one's own, from the configuration to the files: what is taken over, resumed and written."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from refusals import NO_VALUE, refusal
from small_model import SMALL

from nemo_dreamfusion import launch
from nemo_dreamfusion.data.cameras import cameras_from_orbit
from nemo_dreamfusion.export.agreement import orbit_around
from nemo_dreamfusion.export.seen import seen_colors
from nemo_dreamfusion.launch.run_folder import locate_folder
from nemo_dreamfusion.launch.starting import read_mesh, start
from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.models.options import read_prompts
from nemo_dreamfusion.modules.renderers.triangles import vertex_normals

QUICK = [one for one in SMALL if 'model.renderer' not in one] + [
    'model.prompt=a duck',
    'turntable_frames=0',
    'pictures=[]',
]
QUICK += ['mesh_resolution=24', 'preview_interval=0', 'model.data.val.views=1', 'texture_size=64', 'mesh_faces=500']
QUICK += [f'model.data.{views}.{side}=16' for views in ('val', 'test') for side in ('width', 'height')]
# NeMo's schedules of the learning rate follow trainer.max_steps, which a test lowers for a break
SURFACE = ['model.renderer.surface.cells=10', 'model/optim=adam']


def fit(name, folder, *overrides):
    folder = f'exp_manager.explicit_log_dir={folder}'
    return launch.fit(launch.load_config(name, [*QUICK, folder, 'trainer.max_steps=2', *overrides]))


def look(model, shading='albedo'):
    index = torch.arange(2).float()
    cameras = cameras_from_orbit(100 * index, 10 + index, 0 * index + 3.3, 0 * index + 36, 32, 32)
    return model.render_cameras(cameras, shading=shading)


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    return tmp_path_factory.mktemp('stages')


@pytest.fixture(scope='module')
def volume(base):
    return fit('dreamfusion', base / 'volume', 'model.renderer.max_steps=48', 'model.renderer.grid_resolution=16')


@pytest.fixture(scope='module')
def refined(base, volume):
    return fit('dreamfusion-dmtet', base / 'refined', *SURFACE, f'restore_from_path={volume.folder}/DreamFusion.nemo')


def test_the_mesh_stage_takes_shape_and_colours_of_a_finished_object(volume, base):
    """Before a step: silhouettes and colours are those that cameras see of the volume, through its fog."""
    archive = volume.folder / 'DreamFusion.nemo'
    cfg = launch.load_config('dreamfusion-dmtet', [*QUICK, *SURFACE, f'restore_from_path={archive}'])
    model = DreamFusion(cfg.model)
    start(cfg, model, None)
    mesh = model.renderer.surface()
    with torch.no_grad():
        drawn, rendered = look(model).opacity > 0.5, look(volume.model).opacity > 0.5
        albedo, before = (m.nerf(mesh.vertices).albedo for m in (model, volume.model))
        normals = vertex_normals(mesh).numpy()
    assert (drawn & rendered).sum() / (drawn | rendered).sum() > 0.8
    seen = seen_colors(volume.model.nerf, torch.device('cpu'), orbit_around(1.0))(
        mesh.vertices.detach().numpy(), normals
    )
    error, untouched = ((x - torch.from_numpy(seen)).square().mean().sqrt() for x in (albedo, before))
    assert error < 0.02 and error < 0.5 * untouched


@pytest.mark.slow
def test_a_finished_mesh_stage_leaves_the_same_files(refined):
    assert {path.name for path in refined.files} == {
        *('preview.png', 'mesh.glb', 'DreamFusion.nemo', 'metrics.json', 'config.yaml', 'report.html'),
    }
    assert refined.metrics['mesh']['iou'] > 0.9 and refined.metrics['mesh']['closed']
    assert {'loss_mesh_normal_variation', 'loss_mesh_laplacian'} <= set(refined.metrics['last_step'])
    mesh = trimesh.load(refined.folder / 'mesh.glb', force='mesh')
    assert len(mesh.faces) <= 500 and mesh.visual.uv is not None


def test_d28_a_restored_object_shows_the_same_picture(refined):
    restored = DreamFusion.restore_from(str(refined.folder / 'DreamFusion.nemo'), map_location='cpu')
    for shading in ('albedo', 'lambertian'):
        assert torch.equal(look(restored, shading).image, look(refined.model, shading).image)


@pytest.mark.slow
def test_a_resumed_fit_ends_where_one_without_a_break_does(base, volume, refined):
    """One step, then the other in a second call: the same weights, bit for bit."""
    start = f'restore_from_path={volume.folder}/DreamFusion.nemo'
    options = [*SURFACE, start, 'model.iters=2', 'exp_manager.checkpoint_callback_params.every_n_train_steps=1']
    fit('dreamfusion-dmtet', base / 'resumed', *options, 'trainer.max_steps=1')
    resumed = fit('dreamfusion-dmtet', base / 'resumed', *options)
    for name, value in refined.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_a_stage_of_other_sizes_is_refused_by_name(volume, base):
    archive = volume.folder / 'DreamFusion.nemo'
    with refusal('nerf.table', NO_VALUE, 'model/nerf'):
        fit('dreamfusion-dmtet', base / 'other', f'restore_from_path={archive}', 'model.nerf.encoder_cfg.num_levels=3')


@pytest.fixture(scope='module')
def box(base):
    """A cube with a place for each of its sides, in its own units, not at the origin."""
    path = base / 'box.glb'
    cube = trimesh.creation.box(extents=(20.0, 10.0, 5.0))
    cube.apply_translation([100.0, 0.0, 0.0])
    corners = cube.vertices[cube.faces].reshape(-1, 3)
    cell = np.array([[0.1, 0.1], [0.9, 0.1], [0.1, 0.9]])
    uv = np.concatenate([(cell + [k % 4, k // 4]) / [4, 3] for k in range(12)])
    looks = trimesh.visual.TextureVisuals(
        uv=uv, material=trimesh.visual.material.PBRMaterial(baseColorFactor=[255] * 4)
    )
    trimesh.Trimesh(corners, np.arange(36).reshape(-1, 3), visual=looks, process=False).export(path)
    return path


@pytest.mark.slow
def test_texture_mode_keeps_the_geometry_of_the_file_bit_for_bit(box, base):
    made = fit('dreamfusion-mesh', base / 'painted', f'model.mesh={box}')
    before, after = (trimesh.load(path, force='mesh') for path in (box, made.folder / 'mesh.glb'))
    np.testing.assert_array_equal(before.vertices, after.vertices)
    np.testing.assert_array_equal(before.faces, after.faces)
    np.testing.assert_array_equal(before.visual.uv, after.visual.uv)
    assert after.visual.material.baseColorTexture.size == (64, 64)
    assert made.metrics['mesh']['atlas'] == "the file's own"
    assert not list(made.model.renderer.parameters())
    restored = DreamFusion.restore_from(str(made.folder / 'DreamFusion.nemo'), map_location='cpu')
    assert torch.equal(look(restored).image, look(made.model).image)
    out = base / 'again.obj'
    launch.export(launch.load_config('dreamfusion-mesh', [
        *QUICK, f'model.mesh={box}', f'restore_from_path={made.folder}/DreamFusion.nemo', 'mode=export-mesh',
        f'mesh_fname={out}',
    ]))  # fmt: skip
    assert trimesh.load(out, force='mesh').bounds[0][0] == pytest.approx(90.0, rel=1e-5)


@pytest.mark.slow
def test_refine_mode_moves_the_file_within_its_reach(box, base):
    settings = ['model.mesh_mode=refine', 'model.renderer.surface.reach=0.1', 'model.renderer.surface.cells=4']
    made = fit('dreamfusion-mesh', base / 'refined_box', f'model.mesh={box}', *settings)
    before, after = (trimesh.load(path, force='mesh') for path in (box, made.folder / 'mesh.glb'))
    moved = np.linalg.norm(after.vertices - before.vertices, axis=-1)
    scale = 0.9 / np.linalg.norm([10.0, 5.0, 2.5])  # of the file's units to the world's
    assert 0 < moved.max() * scale <= 0.1
    np.testing.assert_array_equal(before.faces, after.faces)


@pytest.mark.parametrize(
    ('name', 'options'), [('dreamfusion', ['model.renderer.max_steps=48']), ('dreamfusion-dmtet', SURFACE)]
)
def test_init_mode_is_a_first_shape_of_a_field_and_of_a_grid(name, options, box):
    """The box is twice as wide as it is high, seen from the front."""
    cfg = launch.load_config(name, [*QUICK, f'model.mesh={box}', *options])
    model = DreamFusion(cfg.model)
    start(cfg, model, read_mesh(cfg, model.mesh_mode))
    opacity = look(model).opacity[0, ..., 0] > 0.5
    assert opacity.any(0).sum() > 1.5 * opacity.any(1).sum() > 0
    assert (model.nerf.first_distance is not None) == (name == 'dreamfusion')


def test_modes_that_a_recipe_has_not_are_refused_before_any_work(box, base):
    with refusal('model.mesh_mode', 'texture', 'dreamfusion-mesh'):
        fit('dreamfusion', base / 'x', f'model.mesh={box}', 'model.mesh_mode=texture')
    with refusal('model.mesh_mode', 'init', 'dreamfusion-dmtet'):
        fit('dreamfusion-mesh', base / 'x', f'model.mesh={box}', 'model.mesh_mode=init')
    with refusal('model.mesh', NO_VALUE, 'model.mesh=<file>'):
        fit('dreamfusion-mesh', base / 'x')
    with refusal('model.mesh', str(base / 'no.glb'), 'file that is there'):
        fit('dreamfusion-mesh', base / 'x', f'model.mesh={base / "no.glb"}')
    with refusal('model.loss.lambda_mesh_normal', 0.5, 'model/renderer=mesh'):
        fit('dreamfusion', base / 'x', 'model/loss=dmtet', 'model.renderer.max_steps=48')


def fit_mesh(folder, mesh, *overrides):
    cfg = launch.load_config('dreamfusion-mesh', [*QUICK, 'mesh_resolution=0', f'exp_manager.{folder}', *overrides])
    cfg.model.mesh, cfg.trainer.max_steps = str(mesh), 1
    return launch.fit(cfg)


def test_a_mesh_of_the_same_name_and_other_content_is_another_run(box, base):
    """By content, wherever the file lies and whatever it is called."""
    mine, moved = base / 'mine' / 'shape.ply', base / 'moved.ply'
    mine.parent.mkdir()
    trimesh.creation.box().export(mine)
    trimesh.creation.box().export(moved)
    first = fit_mesh(f'exp_dir={base}/runs', mine)
    assert fit_mesh(f'exp_dir={base}/runs', moved).status == 'skipped'
    trimesh.creation.icosphere(subdivisions=1).export(mine)
    other = fit_mesh(f'exp_dir={base}/runs', mine)
    assert other.status == 'finished' and other.folder != first.folder
    with refusal('model.mesh_sha256', NO_VALUE, 'then', 'exp_manager.exp_dir'):
        fit_mesh(f'explicit_log_dir={first.folder}', mine)
    with refusal('model.mesh_sha256', '0' * 64, str(mine)):
        fit_mesh(f'exp_dir={base}/runs', mine, f'model.mesh_sha256={"0" * 64}')


def test_what_is_rendered_of_an_archive_lies_beside_it(refined, volume):
    """And not in the first stage's folder, whose prompt is the same."""
    before = {path.name for path in volume.folder.iterdir()}
    archive = f'restore_from_path={refined.folder / "DreamFusion.nemo"}'
    views = ['model.data.test.views=1', f'exp_manager.exp_dir={volume.folder.parent}']
    made = launch.render(launch.load_config('dreamfusion', [*QUICK, archive, 'mode=test', *views]))
    assert made.folder == refined.folder and made.strip.is_file()
    assert {path.name for path in volume.folder.iterdir()} == before
    elsewhere = f'exp_manager.explicit_log_dir={volume.folder.parent / "elsewhere"}'
    made = launch.render(launch.load_config('dreamfusion', [*QUICK, archive, 'mode=test', elsewhere, *views]))
    assert made.folder == volume.folder.parent / 'elsewhere' and made.strip.is_file()


def test_a_stage_that_leaves_no_mesh_starts_from_that_of_the_default_export(volume):
    """As the rows of a benchmark do."""
    first_shapes = []
    for resolution in (0, 128, 64):
        options = [*QUICK, *SURFACE, f'restore_from_path={volume.folder}/DreamFusion.nemo']
        cfg = launch.load_config('dreamfusion-dmtet', [*options, f'mesh_resolution={resolution}'])
        model = DreamFusion(cfg.model)
        start(cfg, model, None)
        first_shapes.append(torch.nn.utils.parameters_to_vector(model.renderer.surface.parameters()))
    assert torch.equal(first_shapes[0], first_shapes[1]) and not torch.equal(first_shapes[0], first_shapes[2])


def test_the_commands_of_the_page_have_a_folder_each(base, monkeypatch):
    """So that they can be pasted one after the other; the first two are two ways to one run."""
    page = (Path(__file__).parents[2] / 'docs' / 'mesh.md').read_text(encoding='utf-8')
    lines = [line.partition('  #')[0] for line in re.findall(r'^nemo-dreamfusion .*', page, re.M)]
    commands = [shlex.split(line)[1:] for line in lines if 'mode=' not in line]
    plain = [['model.prompt=a duck']]  # of make run
    monkeypatch.chdir(base)
    trimesh.creation.box().export('duck.glb')
    folders = []
    for command in plain + commands:
        name = command[1] if command[0] == '--config-name' else 'dreamfusion'
        cfg = launch.load_config(name, command[2:] if command[0] == '--config-name' else command)
        folders.append(locate_folder(cfg, read_prompts(cfg.model)))
    assert len(commands) >= 4 and len(set(folders)) == len(folders)
