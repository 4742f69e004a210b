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


"""One contract for all back ends: every field x renderer x background x material that the configuration offers, under
every shading, in train and eval, for no ray, one ray and many.

The choices are read from ``nemo_dreamfusion/conf/model``, so a new back end is tested by being there. What cannot be
built on this machine says so in a test of its own.
"""

import io
from functools import cache
from itertools import product

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from small_model import CONF

from nemo_dreamfusion.data.cameras import cameras_from_orbit, rays
from nemo_dreamfusion.modules.backgrounds.base import Background
from nemo_dreamfusion.modules.guidance.base import Guidance
from nemo_dreamfusion.modules.materials.base import Material
from nemo_dreamfusion.modules.nerf.base import DENSITY_ACTIVATIONS, NORMAL_TYPES, RadianceField
from nemo_dreamfusion.modules.renderers.base import Renderer, Scene
from nemo_dreamfusion.parts.build import build
from nemo_dreamfusion.parts.optional import MissingPackageError
from nemo_dreamfusion.parts.types import SHADINGS, Light, PromptSet, RenderOutput

KINDS = {'nerf': RadianceField, 'renderer': Renderer, 'background': Background, 'material': Material}
SIZES = {'renderer': {'max_steps': 24, 'grid_resolution': 8}}  # of those that have them
CELLS = {'cells': 8}  # of a renderer's surface
WITHOUT_ALBEDO = ('normal', 'textureless')
MODES = pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / 'model' / group).glob('*.yaml'))


@cache
def options(group: str, choice: str) -> dict:
    with initialize_config_dir(str(CONF), version_base=None):
        composed = compose('dreamfusion', overrides=[f'model/{group}={choice}'])
    return OmegaConf.to_container(composed.model[group], resolve=True)


def make(group: str, choice: str, **changed):
    torch.manual_seed(0)
    node = options(group, choice)
    smaller = {key: value for key, value in SIZES.get(group, {}).items() if key in node}
    if 'cells' in node.get('surface', {}):
        smaller['surface'] = {**node['surface'], **CELLS}
    return build(f'model.{group}', {**node, **smaller, **changed}, KINDS[group])


@cache
def reason(group: str, choice: str) -> str:
    """Why the choice cannot be built here; empty where it can."""
    try:
        make(group, choice)
    except MissingPackageError as error:
        return str(error)
    return ''


def here(*groups: str) -> list[tuple[str, ...]]:
    """All combinations of choices that can be built on this machine; of two names for one choice the first."""
    return list(product(*(distinct(group) for group in groups)))


def distinct(group: str) -> list[str]:
    found = {str(options(group, choice)): choice for choice in reversed(choices(group)) if not reason(group, choice)}
    return sorted(found.values())


def draws_mesh(renderer: str) -> bool:
    """Whether a renderer draws triangles: then the field's density, and its normals, are not used."""
    return make('renderer', renderer).surface is not None


def parts(nerf: str, renderer: str, background: str, material: str, training: bool, **changed):
    """Scene and renderer, whose occupancy has been looked at once."""
    scene = Scene(
        field=make('nerf', nerf, **changed),
        background=make('background', background),
        material=make('material', material),
    )
    render = make('renderer', renderer)
    for module in (scene.field, scene.background, scene.material, render):
        module.train(training)
    render.update(scene.field.density, 0, torch.Generator().manual_seed(0))
    return scene, render


def view(count: int, size: int):
    same = torch.ones(count)
    return rays(cameras_from_orbit(same * 30, same * 20, same * 3.2, same * 36, size, size))


def draw(scene: Scene, render: Renderer, shading: str, count: int, size: int):
    light = Light(direction=torch.tensor([[0.0, 1.0, 0.0]]).expand(count, 3), ambient=0.1)
    generator = torch.Generator().manual_seed(0)
    return render.render(
        view(count, size), scene, shading=shading, light=light, with_normals=True, generator=generator
    )


def check(out, count: int, size: int) -> None:
    """What every render promises."""
    assert out.image.shape == out.normals.shape == (count, size, size, 3)
    assert out.opacity.shape == out.depth.shape == (count, size, size, 1)
    for values in (out.image, out.normals, out.opacity, out.depth):
        assert values.isfinite().all() and values.dtype == torch.float32
    for values in (out.image, out.opacity):
        assert ((values >= -1e-6) & (values <= 1 + 1e-5)).all()
    assert ((out.depth >= 0) & (out.depth <= 3.2 + 3**0.5)).all()
    assert (out.normals.norm(dim=-1) <= 1 + 1e-5).all()
    if count:
        assert out.opacity.max() > 0.1  # the middle of the image sees the object


def check_all(scene: Scene, render: Renderer) -> None:
    with torch.no_grad():
        for shading, (count, size) in product(SHADINGS, ((2, 6), (1, 1), (0, 1))):
            check(draw(scene, render, shading, count, size), count, size)


@MODES
@pytest.mark.parametrize(('nerf', 'renderer', 'background', 'material'), here(*KINDS))
def test_every_combination_fills_the_same_output(nerf, renderer, background, material, training):
    check_all(*parts(nerf, renderer, background, material, training))


@MODES
@pytest.mark.parametrize('normal_type', NORMAL_TYPES)
@pytest.mark.parametrize('density_activation', DENSITY_ACTIVATIONS)
@pytest.mark.parametrize(('nerf', 'renderer'), [pair for pair in here('nerf', 'renderer') if not draws_mesh(pair[1])])
def test_every_kind_of_density_and_normals(nerf, renderer, density_activation, normal_type, training):
    blob = {'exp': (5.0, 0.2), 'softplus': (10.0, 0.5)}[density_activation]  # DreamFusion's, Magic3D's
    changed = {'normal_type': normal_type, 'density_activation': density_activation}
    changed |= {'blob_density': blob[0], 'blob_radius': blob[1]}
    scene, render = parts(nerf, renderer, 'static', 'basic_shading', training, **changed)
    check_all(scene, render)
    for count in (0, 1):
        positions = torch.zeros(count, 3)
        assert scene.field(positions).density.shape == (count,)
        assert scene.field.normals(positions).shape == (count, 3)
    if training:
        check_gradients(scene, render, 'lambertian')


def check_gradients(scene: Scene, render: Renderer, shading: str) -> None:
    """Each parameter gets a finite gradient; those of the albedo only where the shading reads it.

    A mesh's colours are the field's albedo, and nothing of it else is used.
    """
    for module in (scene.field, scene.background, scene.material):
        module.zero_grad()
    draw(scene, render, shading, 1, 8).image.square().sum().backward()
    for module in (scene.field, scene.background, scene.material, render):
        for name, parameter in module.named_parameters():
            only_albedo = render.surface is not None and module is scene.field
            unused = shading in WITHOUT_ALBEDO and (only_albedo or name.startswith('features_net'))
            if unused or (only_albedo and name.startswith('sigma_net')):
                assert parameter.grad is None or not parameter.grad.any(), name  # zeros where one pass makes both
            else:
                assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize('shading', SHADINGS)
@pytest.mark.parametrize(('nerf', 'renderer', 'background'), here('nerf', 'renderer', 'background'))
def test_a_step_gives_every_parameter_a_gradient(nerf, renderer, background, shading):
    check_gradients(*parts(nerf, renderer, background, 'basic_shading', True), shading)


@pytest.mark.parametrize('nerf', [choice for (choice,) in here('nerf')])
def test_fields_know_all_their_parameters_by_group(nerf):
    field = make('nerf', nerf)
    listed = [id(p) for group in field.parameter_groups().values() for p in group]
    assert sorted(listed) == sorted(id(p) for p in field.parameters())


@pytest.mark.parametrize(('group', 'choice'), [(g, c) for g in KINDS for c in choices(g) if reason(g, c)])
def test_what_cannot_be_built_here_says_why_and_what_to_set(group, choice):
    said = reason(group, choice)
    assert f'model/{group}={choice}' in said and said.count(f'model/{group}=') == 2, said


# Guidance: each score and each schedule of timesteps with a small Stable Diffusion of random weights.

ROWS = {  # of the UNet per image in one step at t = 500, what the score trains included
    'asd': 2 + 1,  # the guidance, the prediction at the shifted time
    'bridge': 2,
    'csd': 2,
    'dds': 2 + 2,  # the object and what it was before
    'ism': 3 + 1 + 2,  # inversion to 450 in steps of 200, the last step, the guidance
    'pds': 2 + 2,
    'rfds': 2,
    'rfds_rev': 1 + 2,  # the noise that suits the render, the guidance
    'sdi': 2 * 5 + 2,  # inversion in int(10 t / T) guided steps, the guidance
    'sds': 2,
    'vsd': 2 + 1 + 1,  # the guidance, the learned prediction, its training
}


@cache
def guidance_node(*overrides: str) -> dict:
    with initialize_config_dir(str(CONF), version_base=None):
        composed = compose('dreamfusion', overrides=['model/guidance=sd_huggingface', *overrides]).model.guidance
    return OmegaConf.to_container(composed, resolve=True)


def guidance_with(folder, *overrides: str) -> Guidance:
    guidance = build('model.guidance', {**guidance_node(*overrides), 'source': str(folder)}, Guidance)
    try:
        edits = guidance.score.compares_source
        guidance.prepare(PromptSet('a red cube', source='a blue cube' if edits else ''), 'cpu')
    except MissingPackageError as error:
        pytest.skip(str(error))
    return guidance


def guided(guidance: Guidance, count: int, *, latent: bool = True, progress: float = 0.3, seed: int = 0):
    """One step on a fixed render; the output, and the gradient of the image."""
    drawn = torch.rand(count, 16, 16, 4, generator=torch.Generator().manual_seed(1))
    image, opacity = drawn[..., :3].requires_grad_(True), drawn[..., 3:]
    render = RenderOutput(image=image, opacity=opacity, depth=opacity, normals=None)
    same = torch.ones(count)
    cameras = cameras_from_orbit(same * 30, same * 20, same * 3.2, same * 36, 16, 16)
    generator = torch.Generator().manual_seed(seed)
    options = {'step': 0, 'progress': progress, 'latent': latent, 'generator': generator}
    if guidance.score.compares_source:
        options['source'] = RenderOutput(image=1 - image.detach(), opacity=opacity, depth=opacity, normals=None)
    output = guidance.loss(render, cameras, **options)
    return output, torch.autograd.grad(output.loss, image)[0]


def test_every_score_is_listed():
    assert sorted(ROWS) == choices('guidance/score')


@pytest.mark.parametrize('timesteps', choices('guidance/timesteps'))
@pytest.mark.parametrize('score', ROWS)
def test_a_guidance_promises(sd_folder, score, timesteps):
    guidance = guidance_with(sd_folder, f'model/guidance/score={score}', f'model/guidance/timesteps={timesteps}')
    low, high = guidance.timesteps.range(0.3, 1000)
    for latent, count in product((True, False), (1, 3)):
        output, gradient = guided(guidance, count, latent=latent)
        assert output.loss.shape == output.gradient_norm.shape == () and output.loss.dtype == torch.float32
        assert output.timesteps.shape == (count,) and output.timesteps.dtype == torch.int64
        assert ((output.timesteps >= low) & (output.timesteps <= high)).all()
        assert gradient.isfinite().all() and (gradient.abs().amax(dim=(1, 2, 3)) > 0).all()
        assert not output.gradient_norm.requires_grad and output.gradient_norm > 0


@pytest.mark.parametrize('score', ROWS)
def test_a_score_is_a_function_of_generator_and_state(sd_folder, score):
    guidance = guidance_with(sd_folder, f'model/guidance/score={score}')
    guided(guidance, 2)  # whatever is trained has a state
    buffer = io.BytesIO()
    torch.save(guidance.training_state(), buffer)
    torch.manual_seed(7)
    expected_global = torch.rand(1)
    torch.manual_seed(7)
    first = guided(guidance, 2, seed=3)
    assert torch.equal(torch.rand(1), expected_global)  # torch's global numbers are nobody's
    resumed = guidance_with(sd_folder, f'model/guidance/score={score}')
    resumed.load_training_state(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    again = guided(resumed, 2, seed=3)
    assert torch.equal(first[0].loss, again[0].loss) and torch.equal(first[1], again[1])
    assert not torch.equal(guided(resumed, 2, seed=4)[1], again[1])


@pytest.mark.parametrize(('score', 'rows'), ROWS.items())
def test_a_score_runs_the_unet_as_often_as_it_says(sd_folder, score, rows):
    half = ['model.guidance.timesteps.min_step_ratio=0.5', 'model.guidance.timesteps.max_step_ratio=0.5']
    guidance = guidance_with(sd_folder, f'model/guidance/score={score}', *half)
    counted = []
    guidance.noise_predictor.unet.register_forward_hook(lambda unet, inputs, output: counted.append(len(inputs[0])))
    guided(guidance, 2)
    assert sum(counted) == 2 * rows
    assert all(p.grad is None for p in guidance.noise_predictor.unet.parameters())
