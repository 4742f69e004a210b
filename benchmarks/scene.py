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

"""Compare the field and training steps of nemo_dreamfusion/conf with the torch reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from measure import Case, Results, Skipped, Way
from omegaconf import OmegaConf
from torch import Tensor
from torch.profiler import record_function

from nemo_dreamfusion.data.cameras import rays
from nemo_dreamfusion.data.samplers import OrbitCameras, RandomCameras
from nemo_dreamfusion.modules.backgrounds.base import Background
from nemo_dreamfusion.modules.losses.base import Losses
from nemo_dreamfusion.modules.materials.base import Material
from nemo_dreamfusion.modules.nerf.base import RadianceField
from nemo_dreamfusion.modules.renderers.base import Renderer, Scene
from nemo_dreamfusion.ops.adan import FusedAdan
from nemo_dreamfusion.parts.build import build
from nemo_dreamfusion.parts.types import CameraBatch, Light, RenderOutput

CONF = Path(__file__).resolve().parents[1] / 'nemo_dreamfusion' / 'conf'
OPTIMIZERS = {'adam': torch.optim.Adam, 'adan': FusedAdan}
TABLE_AFTER = 'table after the step'
NO_FILES = ('pictures=[]', 'turntable_frames=0', 'mesh_resolution=0', 'preview_interval=0')  # of a fit that is timed
WITH_NORMALS = ('model.loss.lambda_orientation=0.01',)
# Normals are differences of densities, so these gradients are sums of pairs that nearly cancel. torch's own float32 layers
# are uncertain by so much (compared with float64 they are further off than ours).
OF_CANCELLING_SUMS = {
    'gradient of sigma_net.0.bias': 1e-2,
    'gradient of sigma_net.2.weight': 5e-2,
    'gradient of sigma_net.2.bias': 1e-2,
}


def options_of(overrides: tuple[str, ...] = (), recipe: str = 'dreamfusion') -> dict:
    """Return the ``model`` node of nemo_dreamfusion/conf/<recipe>.yaml."""
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose(recipe, overrides=list(overrides))
    return OmegaConf.to_container(config.model, resolve=True)


class Step:
    """A training step without guidance: fixed noise takes the place of the guidance's gradient."""

    def __init__(
        self,
        device: torch.device,
        *,
        shading: str,
        side: int = 64,
        overrides: tuple[str, ...] = (),
        recipe: str = 'dreamfusion',
    ) -> None:
        self.options = options = options_of(('model/optim=adan', *overrides), recipe)
        self.shading, self.side, self.device = shading, side, device
        self.field = build('model.nerf', options['nerf'], RadianceField).to(device)
        self.material = build('model.material', options['material'], Material).to(device)
        self.background = build('model.background', options['background'], Background).to(device)
        self.renderer = build('model.renderer', options['renderer'], Renderer).to(device)
        self.losses = build('model.loss', options['loss'], Losses)
        train = {k: v for k, v in options['data']['train'].items() if k != '_target_'}
        self.cameras = RandomCameras(**train)
        groups, optim = self.field.parameter_groups(), dict(options['optim'])
        self.optimizer = OPTIMIZERS[optim.pop('name')](
            [
                {'params': groups['network']},
                {'params': groups['encoding'], 'lr': optim['lr'] * options['encoding_lr_ratio']},
            ],
            **optim,
        )
        self.generator = torch.Generator(device)
        self.host_generator = self.generator if self.generator.device.type == 'cpu' else torch.Generator()
        self.light = Light(torch.tensor([[0.0, 0.6, 0.8]], device=device), ambient=0.3)
        self.image_gradient = torch.randn(1, side, side, 3, device=device) * 1e-2
        self.step = 0
        self.samples = 0

    def score(self, render: RenderOutput, cameras: CameraBatch) -> Tensor:
        """Return the loss that takes the guidance's place."""
        return (render.image * self.image_gradient).sum()

    def needs_normals(self) -> bool:
        return self.losses.needs_normals(self.step)

    def __call__(self) -> Results:
        """Make one step; return the picture before it, the gradients, and the table after it."""
        with record_function('step'):
            generator = self.generator.manual_seed(self.step)
            self.renderer.update(self.field.density, self.step, generator)
            if self.host_generator is not generator:  # the same cameras as on a CPU; the host does not wait
                self.host_generator.manual_seed(self.step)
            cameras = self.cameras.sample(self.host_generator, self.side, self.side).to(self.device)
            render = self.renderer.render(
                rays(cameras),
                Scene(self.field, self.material, self.background),
                shading=self.shading,
                light=self.light,
                with_normals=self.needs_normals(),
                generator=generator,
            )
            weights = self.losses.weights(self.step)
            loss = self.score(render, cameras)
            loss = loss + sum(weights[name] * value for name, value in self.losses(render, self.step).items())
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
        self.step += 1
        self.samples = len(render.samples.weights)
        pictures = {name: getattr(render, name) for name in ('image', 'opacity', 'depth', 'normals')}
        gradients = {f'gradient of {name}': p.grad for name, p in self.field.named_parameters()}
        results = pictures | gradients | {TABLE_AFTER: self.field.table}
        return {name: tensor for name, tensor in results.items() if tensor is not None}

    @torch.no_grad()
    def evaluate(self, side: int) -> Tensor:
        """Render one picture in evaluation mode, in chunks."""
        camera = OrbitCameras(views=1, elevation_deg=15.0, distance=3.2, fov_deg=36.0, height=side, width=side)[0]
        self.renderer.eval()
        scene = Scene(self.field, self.material, self.background.eval())
        render = self.renderer.render(rays(camera.to(self.device)), scene, shading='albedo')
        self.renderer.train()
        self.background.train()
        return render.image


def _case(name: str, what: str, make: Callable[[], Step], tolerances: Mapping[str, float]) -> Case:
    """Return a case in which ours and the reference each train their own copy from the same start."""
    ours = make()
    reference = make()
    reference.field.load_state_dict(ours.field.state_dict())
    reference.image_gradient = ours.image_gradient
    others = (Way('torch reference', reference, 'reference'),)
    # By the norm: Adan divides by the gradient's size, so rows whose gradient is only rounding error move arbitrarily.
    return Case(name, what, Way('ours', ours), others, tolerances, by_norm=(TABLE_AFTER,))


def field_with_normals(device: torch.device) -> Case:
    """Time density, albedo and normals of the full-size field, forward and backward."""
    n = 2**12
    field = Step(device, shading='albedo', overrides=('model/nerf=torchngp',)).field
    positions = (torch.rand(n, 3, device=device) * 2 - 1) * 0.9
    grads = [torch.randn(n, device=device), torch.randn(n, 3, device=device), torch.randn(n, 3, device=device)]

    def run() -> Results:
        field.zero_grad(set_to_none=True)
        out = field(positions)
        outputs = {'density': out.density, 'albedo': out.albedo, 'normals': field.normals(positions)}
        torch.autograd.backward(tuple(outputs.values()), grads)
        return outputs | {f'gradient of {name}': p.grad for name, p in field.named_parameters()}

    setting = f'16 x 2 x 2^19 grid, two MLPs 64 wide, central differences, 2^{n.bit_length() - 1} points'
    return Case('field_with_normals', setting, Way('ours', run), (Way('torch reference', run, 'reference'),))


def one_triton_kernel(device: torch.device, run: Callable[[], Results]) -> Way | Skipped:
    """Return the same with grid and networks in one kernel, which on a GPU is done only when it is asked for."""
    name = 'grid and networks in one kernel (NEMO_DREAMFUSION_OPS=triton)'
    return (
        Way(name, run, 'triton') if device.type == 'cuda' else Skipped(name, 'it is for GPUs, and this device is none')
    )


def _networks_case(device: torch.device, name: str, choice: str, exponent: int) -> Case:
    """Time a field's networks behind its hash grid, forward and backward."""
    field, n = Step(device, shading='albedo', overrides=(f'model/nerf={choice}',)).field, 2**exponent
    positions = (torch.rand(n, 3, device=device) * 2 - 1) * field.bound
    grads = [torch.randn(n, device=device), torch.randn(n, 3, device=device)]

    def run() -> Results:
        field.zero_grad(set_to_none=True)
        outputs = field.raw(positions, with_albedo=True)
        torch.autograd.backward(outputs, grads)
        gradients = {f'gradient of {name}': p.grad for name, p in field.named_parameters()}
        return {'density before its activation': outputs[0], 'albedo before its activation': outputs[1]} | gradients

    others = (Way('torch reference', run, 'reference'), one_triton_kernel(device, run))
    what = f'density and albedo of {choice}, 2^{exponent} points'
    return Case(name, what, Way('ours', run), others, *_kinks(field))


def _kinks(field: RadianceField) -> tuple[dict[str, float], tuple[str, ...]]:
    """Return tolerances for a field's gradients, and their names: they are compared by the norm.

    A hidden unit that is zero but for rounding hands on a point's whole gradient or none of it: of the full size's
    131,072 points one does, and no other unit's gradient differs. That is 0.5 % of the norm.
    """
    names = tuple(f'gradient of {name}' for name, _ in field.named_parameters())
    return dict.fromkeys(names, 0.02), names


def networks_of_the_full_size(device: torch.device) -> Case:
    """Time grid and networks in the sizes of the full-size field."""
    return _networks_case(device, 'grid_networks_full_size', 'torchngp', 17)


def networks_of_the_main_job(device: torch.device) -> Case:
    """Time grid and networks in the sizes of the main job."""
    return _networks_case(device, 'grid_networks_main_job', 'torchngp_small', 17)


def training_step(device: torch.device) -> Case:
    """Time DreamFusion's step: shaded, with the orientation loss, in the sizes of the main job."""
    return _case(
        'training_step_without_guidance',
        '64 x 64, lambertian with normals, fields and renderer as in dreamfusion.yaml',
        lambda: Step(device, shading='lambertian', overrides=WITH_NORMALS),
        OF_CANCELLING_SUMS,
    )


def main_job_step(device: torch.device) -> Case:
    """Time the main job's step: albedo only."""
    return _case(
        'training_step_of_the_main_job',
        '64 x 64, albedo, fields and renderer as in dreamfusion.yaml',
        lambda: Step(device, shading='albedo'),
        {},
    )


CASES = {
    'grid_networks_full_size': networks_of_the_full_size,
    'grid_networks_main_job': networks_of_the_main_job,
    'field_with_normals': field_with_normals,
    'training_step_without_guidance': training_step,
    'training_step_of_the_main_job': main_job_step,
}
