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


"""DreamFusion (Poole et al., 2022): a radiance field shaped by the score of a frozen text-to-image diffusion model."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy
from nemo.core.classes import ModelPT
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor

from nemo_dreamfusion.data.cameras import rays
from nemo_dreamfusion.models.nemo_archive import (
    SafeConnector,
    check_same_parts,
    drop_old_options,
    fetch_safely,
    register_with_nemo,
    restore_safely,
)
from nemo_dreamfusion.models.optimizers import check_optim, check_param_groups, fused_options
from nemo_dreamfusion.modules.backgrounds.base import Background
from nemo_dreamfusion.modules.guidance.base import Guidance
from nemo_dreamfusion.modules.losses.base import Losses
from nemo_dreamfusion.modules.materials.base import Material
from nemo_dreamfusion.modules.nerf.base import RadianceField
from nemo_dreamfusion.modules.renderers.base import Renderer, Scene
from nemo_dreamfusion.parts.build import build
from nemo_dreamfusion.parts.checks import check_keys, check_positive, check_range
from nemo_dreamfusion.parts.compilation import check_compile
from nemo_dreamfusion.parts.precision import check_scene_precision, set_tf32
from nemo_dreamfusion.parts.safe_load import read_checkpoint
from nemo_dreamfusion.parts.schedules import check_resolution, plan_step
from nemo_dreamfusion.parts.type_checks import check_types
from nemo_dreamfusion.parts.types import VIEWS, CameraBatch, Light, PromptSet, RenderOutput, StepPlan

register_with_nemo()

PARTS = ('nerf', 'material', 'background', 'renderer', 'loss', 'guidance')
OPTIMIZED = ('nerf', 'material', 'background', 'renderer')  # the submodules whose parameters an optimizer may be given
NEEDED = (
    *('prompt', 'negative_prompt', 'front_prompt', 'side_prompt', 'back_prompt', 'overhead_prompt', 'seed', 'iters'),
    *('latent_iter_ratio', 'albedo_iter_ratio', 'min_ambient_ratio', 'textureless_ratio', 'latent_resolution'),
    *('resolution', 'guidance_weight', 'encoding_lr_ratio', *PARTS),
)
# At every step, whatever the losses.
LOGGED = ('loss', 'guidance', 'guidance_gradient_norm', 'opacity', 'gradient_norm')
_NO_RANK = 1_000_002  # stands for all ranks together in the seeds; the number of no real rank


class DreamFusion(ModelPT):
    """Field, material, background and renderer, optimized under a guidance that is no part of the module tree.

    Args:
        cfg: the ``model`` node of ``nemo_dreamfusion/conf/dreamfusion.yaml``.
        trainer: a ``lightning.pytorch.Trainer`` (never a ``pytorch_lightning`` one).

    Raises:
        ValueError: for a value in ``cfg`` that is out of range, or a back end that does not exist.
    """

    def __init__(self, cfg: DictConfig, trainer: pl.Trainer | None = None) -> None:
        with open_dict(cfg):
            cfg.pop('_target_', None)  # NeMo cannot restore an archive whose configuration has one at its root
        if self._is_model_being_restored():
            drop_old_options(cfg)
        super().__init__(cfg=cfg, trainer=trainer)
        plain = OmegaConf.to_container(self.cfg, resolve=True)
        self.options = plain
        _check_options(plain)
        with _seeded(plain['seed']):
            self.nerf = build('model.nerf', plain['nerf'], RadianceField)
            self.material = build('model.material', plain['material'], Material)
            self.background = build('model.background', plain['background'], Background)
            self.renderer = build('model.renderer', plain['renderer'], Renderer)
        self.losses = build('model.loss', plain['loss'], Losses)
        self.guidance = build('model.guidance', plain['guidance'], Guidance)
        self.__dict__.update(generator=None, host_generator=None)

    @property
    def prompts(self) -> PromptSet:
        """The texts of this object.

        As in NeMo, ``front_prompt`` and its siblings are what is added to the prompt; ``view_prompts`` are whole texts.
        """
        written = self.options.get('view_prompts') or {}
        added = tuple(self.options[f'{view}_prompt'] for view in VIEWS)
        return PromptSet(self.options['prompt'], negative=self.options['negative_prompt'], added=added, **written)

    @property
    def scene(self) -> Scene:
        """What the renderer is given."""
        return Scene(field=self.nerf, material=self.material, background=self.background)

    # Training

    def setup(self, stage: str | None = None) -> None:
        """Tells DDP that a step may leave an MLP out (a shape without colours), however the user asked for DDP."""
        super().setup(stage)
        if isinstance(self.trainer.strategy, DDPStrategy):
            self.trainer.strategy._ddp_kwargs.setdefault('find_unused_parameters', True)

    def on_fit_start(self) -> None:
        """Loads the guidance and encodes the prompts on this rank's device."""
        check_scene_precision(self.trainer.precision)
        set_tf32(self.options.get('tf32', False))
        self.nerf.compile_networks(self.options.get('compile', False))
        self.guidance.prepare(self.prompts, self.device)
        self.__dict__['generator'] = torch.Generator(device=self.device)
        self.__dict__['host_generator'] = self.generator if self.device.type == 'cpu' else torch.Generator()

    def seed_step(self, step: int, *, shared: bool = False) -> torch.Generator:
        """The random numbers of one step: a function of seed, rank and step, so that a resumed run repeats them.

        What the host must know, plan and cameras, is drawn on the host (``host_generator``, on a CPU the same generator),
        the rest on the device.

        Args:
            step: from 0; with gradient accumulation, of the micro-batch.
            shared: the same numbers on all ranks, and other than any rank's own.
        """
        rank = _NO_RANK if shared else self.global_rank
        for generator in {self.host_generator, self.generator}:
            generator.manual_seed(((self.options['seed'] * 1_000_003 + rank) * 10_000_019 + step) % 2**63)
        return self.generator

    def plan(self, step: int) -> StepPlan:
        """Phase, shading and sizes of one step (draws from the step's generator)."""
        o = self.options
        return plan_step(
            step,
            iters=o['iters'],
            latent_iter_ratio=o['latent_iter_ratio'],
            albedo_iter_ratio=o['albedo_iter_ratio'],
            min_ambient_ratio=o['min_ambient_ratio'],
            textureless_ratio=o['textureless_ratio'],
            latent_shading='normal' if self.guidance.needs_normals(latent=True) else 'albedo',
            latent_resolution=o['latent_resolution'],
            resolution=o['resolution'],
            generator=self.host_generator,
        )

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """One view (or ``batch_size`` views) of the scene, scored by the guidance and the regularisers.

        ``batch`` only counts steps: cameras are drawn here, from the step's own generator.
        """
        step, accumulate = self.global_step, self.trainer.accumulate_grad_batches
        self.nerf.set_progress(step)
        if batch_idx % accumulate == 0:  # with equal weights and equal numbers, all ranks keep the same occupancy grid
            self.renderer.update(self.nerf.density, step, self.seed_step(step, shared=True))
        generator = self.seed_step(step * accumulate + batch_idx % accumulate)
        plan = self.plan(step)
        cameras = self.trainer.datamodule.train_cameras.sample(self.host_generator, plan.height, plan.width)
        cameras = cameras.to(self.device)
        render = self.renderer.render(
            rays(cameras),
            self.scene,
            shading=plan.shading,
            light=_light_near(cameras, plan.ambient, generator),
            with_normals=self.losses.needs_normals(step) or self.guidance.needs_normals(latent=plan.phase == 'latent'),
            with_jittered_normals=self.losses.needs_jittered_normals(step),
            generator=generator,
        )
        guidance = self.guidance.loss(
            render,
            cameras,
            step=step,
            progress=min(1.0, step / self.options['iters']),
            latent=plan.phase == 'latent',
            generator=generator,
        )
        loss = self.options['guidance_weight'] * guidance.loss + self._regularise(render, step)
        self.log_dict(
            {
                'loss': loss.detach(),
                'guidance': guidance.loss.detach(),
                'guidance_gradient_norm': guidance.gradient_norm,
                'opacity': render.opacity.detach().mean(),
            },
            prog_bar=False,
            batch_size=len(cameras),
            sync_dist=True,
        )
        return loss

    def _regularise(self, render: RenderOutput, step: int) -> Tensor:
        """Weighted sum of the regularisers; logs each raw and weighted."""
        weights = self.losses.weights(step)
        total = render.opacity.new_zeros(())
        for name, value in self.losses(render, step).items():
            total = total + weights[name] * value
            terms = {f'loss_{name}': value.detach(), f'loss_{name}_weighted': weights[name] * value.detach()}
            self.log_dict(terms, sync_dist=True)
        return total

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Logs the norm of the whole gradient."""
        squares = [p.grad.detach().square().sum() for p in self.parameters() if p.grad is not None]
        if squares:
            self.log('gradient_norm', torch.stack(squares).sum().sqrt())

    def setup_optimization(self, optim_config=None, optim_kwargs: dict | None = None):
        """As ``ModelPT.setup_optimization``; on a GPU torch's Adam and AdamW run as one kernel."""
        precision, clips = None, False
        if self._trainer is not None:
            precision, clips = self._trainer.precision, bool(self._trainer.gradient_clip_val)
        fused = fused_options(optim_config or self.options.get('optim'), self.device, precision, clips)
        return super().setup_optimization(optim_config, {**fused, **(optim_kwargs or {})})

    def setup_optimizer_param_groups(self) -> None:
        """Two groups: the field's encoding learns ``encoding_lr_ratio`` times as fast as everything else.

        A node ``model.optim_param_groups``, as NeMo knows it, takes their place: {part: {option: value}}, for example
        {nerf: {lr: 1e-2}}; what it does not name learns as ``model.optim`` says.
        """
        if self.cfg.get('optim_param_groups') or not self.options.get('optim'):
            super().setup_optimizer_param_groups()
            return
        encoding = self.nerf.parameter_groups()['encoding']
        known = {id(p) for p in encoding}
        others = [p for p in self.parameters() if id(p) not in known]
        groups = [{'params': others}] if others else []
        if encoding:
            groups.append({'params': encoding, 'lr': self.options['encoding_lr_ratio'] * self.options['optim']['lr']})
        self._optimizer_param_groups = groups

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """What the guidance itself trains (variational scores) travels with the checkpoint."""
        checkpoint['guidance'] = self.guidance.training_state()

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """See :meth:`on_save_checkpoint`."""
        if checkpoint.get('guidance'):
            self.guidance.load_training_state(checkpoint['guidance'])

    # Looking at the scene

    @torch.no_grad()
    def render_cameras(
        self, cameras: CameraBatch, *, shading: str = 'albedo', with_normals: bool = False
    ) -> RenderOutput:
        """The scene as it stands, in evaluation mode (fixed background, no jitter), on this model's device."""
        was_training = self.training
        self.eval()
        try:
            cameras = cameras.to(self.device)
            return self.renderer.render(rays(cameras), self.scene, shading=shading, with_normals=with_normals)
        finally:
            self.train(was_training)

    def validation_step(self, batch: CameraBatch, batch_idx: int) -> RenderOutput:
        """Renders one held-out view; the callbacks save it."""
        return self.render_cameras(batch)

    def test_step(self, batch: CameraBatch, batch_idx: int) -> RenderOutput:
        """As :meth:`validation_step`."""
        return self.render_cameras(batch)

    def predict_step(self, batch: CameraBatch, batch_idx: int) -> RenderOutput:
        """The render of one camera batch, with normals: there is no saying what it is for."""
        return self.render_cameras(batch, with_normals=True)

    def on_validation_epoch_end(self) -> None:
        """Nothing to gather: images are saved by callbacks (NeMo's default expects dictionaries)."""

    def on_test_epoch_end(self) -> None:
        """As :meth:`on_validation_epoch_end`."""

    # NeMo

    def setup_training_data(self, train_data_config: DictConfig | Mapping | None = None) -> None:
        """Data come from :class:`nemo_dreamfusion.data.datamodule.CameraDataModule`."""

    def setup_validation_data(self, val_data_config: DictConfig | Mapping | None = None) -> None:
        """As :meth:`setup_training_data`."""

    def setup_test_data(self, test_data_config: DictConfig | Mapping | None = None) -> None:
        """As :meth:`setup_training_data`."""

    @classmethod
    def list_available_models(cls) -> list:
        """No finished objects are published: each is made from a prompt."""
        return []

    def save_to(self, save_path: str):
        """As ``ModelPT.save_to``; the file is there whole, with checksums, or not at all."""
        self._save_restore_connector = SafeConnector()
        return super().save_to(save_path)

    @classmethod
    def restore_from(cls, restore_path: str, *args, **kwargs):
        """As ``ModelPT.restore_from``, with clear errors and without NeMo's leak of its restore flag on failure."""
        return restore_safely(super().restore_from, cls, restore_path, *args, **kwargs)

    @classmethod
    def from_pretrained(cls, model_name: str, *args, **kwargs):
        """As ``ModelPT.from_pretrained``, with one clear error where the Hugging Face Hub gives nothing."""
        return fetch_safely(super().from_pretrained, model_name, *args, **kwargs)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str, *args, **kwargs):
        """As ``ModelPT.load_from_checkpoint``, of a file on this machine that is read as plain data: no code runs."""
        buffer = io.BytesIO()
        torch.save(read_checkpoint(checkpoint_path), buffer)  # Lightning's own reader would run what is pickled
        buffer.seek(0)
        return super().load_from_checkpoint(buffer, *args, **kwargs)

    def start_from(self, path: str) -> None:
        """Takes over the weights of a finished object, made of the same parts.

        Raises:
            ValueError: for an archive of other parts, or of parts of other sizes, by name.
        """
        check_same_parts(path, self.options)
        weights = type(self).restore_from(path, map_location='cpu').state_dict()
        own = self.state_dict()
        for name, value in weights.items():
            if name not in own or own[name].shape != value.shape:
                part = name.partition('.')[0]
                raise ValueError(
                    f'{path} holds {name} of shape {tuple(value.shape)}, which this run has not: '
                    f'set model/{part} and its options as the archive was made.'
                )
        self.load_state_dict(weights)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """What is drawn within, the first weights, is a function of the seed; torch's global state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _check_options(options: dict) -> None:
    for name in NEEDED:
        if options.get(name) is None:
            raise ValueError(f'model.{name} is missing: set it as nemo_dreamfusion/conf/dreamfusion.yaml does.')
    check_range('model.iters', options['iters'], 1, 10**9, integer=True)
    for name in ('latent_iter_ratio', 'albedo_iter_ratio', 'min_ambient_ratio', 'textureless_ratio'):
        check_range(f'model.{name}', options[name], 0, 1)
    for name in ('resolution', 'latent_resolution'):
        check_resolution(f'model.{name}', options[name])
    check_positive('model.encoding_lr_ratio', options['encoding_lr_ratio'])
    check_range('model.guidance_weight', options['guidance_weight'])
    check_range('model.seed', options['seed'], 0, 2**31, integer=True)
    check_optim(options.get('optim'))
    check_param_groups(options.get('optim_param_groups'), options.get('optim'), OPTIMIZED)
    texts = {name: options[name] for name in NEEDED if name.endswith('prompt')}
    check_types('model', texts, dict.fromkeys(texts, str))
    views = options.get('view_prompts') or {}
    check_types(
        'model', {'tf32': options.get('tf32', False), 'view_prompts': views}, {'tf32': bool, 'view_prompts': Mapping}
    )
    check_compile('model.compile', options.get('compile', False))
    check_keys('model.view_prompts', views, VIEWS)
    check_types('model.view_prompts', views, dict.fromkeys(views, str | None))
    if not options['prompt'].strip():
        raise ValueError("model.prompt is empty: say what to make, e.g. model.prompt='a hamburger'.")


def _light_near(cameras: CameraBatch, ambient: float, generator: torch.Generator) -> Light:
    """A distant light from about where each camera stands: its position moved by a unit Gaussian (DreamFusion, A.2)."""
    place = cameras.camera_to_world[:, :3, 3]
    place = place + torch.randn(place.shape, device=place.device, generator=generator)
    return Light(direction=torch.nn.functional.normalize(place, dim=-1), ambient=ambient)
