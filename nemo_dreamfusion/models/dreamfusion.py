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
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy
from nemo.core.classes import ModelPT
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor

from nemo_dreamfusion.data.cameras import rays
from nemo_dreamfusion.data.datamodule import camera_data
from nemo_dreamfusion.models.edit_options import read_edit
from nemo_dreamfusion.models.editing import Edit, check_finds_region, render_both
from nemo_dreamfusion.models.nemo_archive import (
    SafeConnector,
    drop_old_options,
    fetch_safely,
    register_with_nemo,
    restore_safely,
    to_plain,
)
from nemo_dreamfusion.models.optimizers import fused_options, take_unscaled
from nemo_dreamfusion.models.options import check_options, mesh_mode, read_prompts, say_memory
from nemo_dreamfusion.models.random_numbers import ALL_RANKS, sample_light, seed_of_step, seeded
from nemo_dreamfusion.models.starting import start_from_archive
from nemo_dreamfusion.modules.backgrounds.base import Background
from nemo_dreamfusion.modules.guidance.base import Guidance
from nemo_dreamfusion.modules.losses.base import Losses
from nemo_dreamfusion.modules.materials.base import Material
from nemo_dreamfusion.modules.nerf.base import RadianceField
from nemo_dreamfusion.modules.renderers.base import Renderer, Scene
from nemo_dreamfusion.parts.build import build
from nemo_dreamfusion.parts.precision import check_scene_precision, set_tf32
from nemo_dreamfusion.parts.safe_load import read_checkpoint
from nemo_dreamfusion.parts.schedules import plan_step, resolution_at
from nemo_dreamfusion.parts.texts import keep_texts_literal, literal_when_resolved
from nemo_dreamfusion.parts.types import (
    CameraBatch,
    PromptSet,
    RenderOutput,
    Shading,
    StepPlan,
)

register_with_nemo()

LOGGED = ('loss', 'guidance', 'guidance_gradient_norm', 'opacity', 'gradient_norm')  # each step, whatever the losses


class DreamFusion(ModelPT):
    """Optimize field, material, background and renderer under a frozen guidance.

    Args:
        cfg: the ``model`` node of ``nemo_dreamfusion/conf/dreamfusion.yaml``.
        trainer: a ``lightning.pytorch.Trainer`` (never a ``pytorch_lightning`` one).

    Raises:
        ValueError: for a value in ``cfg`` that is out of range, or a back end that does not exist.

    Attributes:
        options: ``cfg`` as plain containers, interpolations resolved.
        generator: random numbers of the device, set anew at each step; there is none before a fit.
        host_generator: random numbers of the host (on a CPU the same generator).
        edit: the object before an edit; None where nothing is edited, and before :meth:`begin_edit`.
    """

    options: dict[str, Any]
    nerf: RadianceField
    material: Material
    background: Background
    renderer: Renderer
    losses: Losses
    guidance: Guidance
    generator: torch.Generator
    host_generator: torch.Generator
    edit: Edit | None

    def __init__(self, cfg: DictConfig, trainer: pl.Trainer | None = None) -> None:
        with open_dict(cfg):
            cfg.pop('_target_', None)  # NeMo cannot restore an archive whose configuration has one at its root
        if self._is_model_being_restored():
            drop_old_options(cfg)
        keep_texts_literal(cfg)
        super().__init__(cfg=literal_when_resolved(cfg), trainer=trainer)
        plain = to_plain(self.cfg)
        self.options = plain
        check_options(plain)
        with seeded(plain['seed']):
            self.nerf = build('model.nerf', plain['nerf'], RadianceField)
            self.material = build('model.material', plain['material'], Material)
            self.background = build('model.background', plain['background'], Background)
            self.renderer = build('model.renderer', plain['renderer'], Renderer)
        self.losses = build('model.loss', plain['loss'], Losses)
        surface = self.renderer.surface
        self.losses.check_renderer(draws_mesh=surface is not None)
        self.mesh_mode = mesh_mode(plain, surface is not None and surface.keeps_triangles)
        self.edit_options = read_edit(plain, self.nerf.bound, draws_mesh=surface is not None)
        if surface is not None and (self.mesh_mode == 'texture' or self.edit_options is not None):
            surface.keep_shape()
        self.guidance = build('model.guidance', plain['guidance'], Guidance)
        check_finds_region(self.edit_options, self.guidance)
        self.__dict__.update(generator=None, host_generator=None, edit=None)

    @property
    def prompts(self) -> PromptSet:
        """The texts of this object."""
        return read_prompts(self.options)

    @property
    def scene(self) -> Scene:
        """Field, material and background, as the renderer takes them."""
        return Scene(field=self.nerf, material=self.material, background=self.background)

    # Training

    def setup(self, stage: str | None = None) -> None:
        """Tell DDP that a step may leave an MLP out (a shape without colours), however the user asked for DDP."""
        super().setup(stage)
        if isinstance(self.trainer.strategy, DDPStrategy):
            self.trainer.strategy._ddp_kwargs.setdefault('find_unused_parameters', True)

    def on_fit_start(self) -> None:
        """Load the guidance and encode the prompts on this rank's device."""
        check_scene_precision(self.trainer.precision)
        set_tf32(self.options.get('tf32', False))
        self.nerf.compile_networks(self.options.get('compile', False))
        say_memory(self)
        self.guidance.prepare(self.prompts, self.device)
        self.__dict__['generator'] = torch.Generator(device=self.device)
        self.__dict__['host_generator'] = self.generator if self.device.type == 'cpu' else torch.Generator()
        if self.edit_options is not None:
            assert self.edit is not None, 'start_from(<file>.nemo) and begin_edit() come before the fit of an edit'
            self.edit.to(self.device)
            size, cameras = resolution_at(self.options['resolution'], 1, 1), camera_data(self.trainer).train_cameras
            generator = self.seed_step(0, shared=True)  # the same on all ranks, and in a run that goes on
            self.edit.find_parts(
                self.guidance, lambda: cameras.sample(self.host_generator, size, size).to(self.device), generator
            )

    def seed_step(self, step: int, *, shared: bool = False) -> torch.Generator:
        """Seed the generators of one step from (seed, rank, step), so that a resumed run repeats its random numbers.

        Plan and cameras, which the host must know, are drawn from ``host_generator``, everything else from ``generator``.

        Args:
            step: from 0; with gradient accumulation, of the micro-batch.
            shared: the same numbers on all ranks, and other than any rank's own.

        Returns:
            The device's generator.
        """
        seed = seed_of_step(self.options['seed'], ALL_RANKS if shared else self.global_rank, step)
        for generator in {self.host_generator, self.generator}:
            generator.manual_seed(seed)
        return self.generator

    def plan(self, step: int) -> StepPlan:
        """Return phase, shading and sizes of one step; draws from ``host_generator``."""
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
        """Render one batch of views and return guidance loss plus weighted regularisers, a scalar.

        ``batch`` only counts steps: cameras are drawn here, from the step's own generator.
        """
        step, accumulate = self.global_step, self.trainer.accumulate_grad_batches
        if self.edit is None:  # all levels of a finished object are open
            self.nerf.set_progress(step)
        if batch_idx % accumulate == 0:  # with equal weights and equal numbers, all ranks keep the same occupancy grid
            self.renderer.update(self.nerf.density, step, self.seed_step(step, shared=True))
        generator = self.seed_step(step * accumulate + batch_idx % accumulate)
        plan = self.plan(step)
        cameras = camera_data(self.trainer).train_cameras.sample(self.host_generator, plan.height, plan.width)
        cameras = cameras.to(self.device)
        latent = plan.phase == 'latent'
        asked: dict[str, Any] = {
            'shading': plan.shading,
            'light': sample_light(cameras, plan.ambient, generator),
            'with_normals': self.losses.needs_normals(step) or self.guidance.needs_normals(latent=latent),
            'with_jittered_normals': self.losses.needs_jittered_normals(step),
            'generator': generator,
        }
        render, source = render_both(self.edit, self.renderer, self.scene, rays(cameras), **asked)
        compared = {} if source is None else {'source': source}
        progress = min(1.0, step / self.options['iters'])
        guidance = self.guidance.loss(
            render, cameras, step=step, progress=progress, latent=latent, generator=generator, **compared
        )
        kept = {} if source is None or self.edit is None else self.edit.losses(self.nerf, (render, source), generator)
        loss = self.options['guidance_weight'] * guidance.loss + self._regularise(render, step, kept)
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

    def _regularise(self, render: RenderOutput, step: int, kept: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of the regularisers and of an edit's, a scalar; log each raw and weighted."""
        weights = {**self.losses.weights(step), **(self.edit.weights if self.edit else {})}
        total = render.opacity.new_zeros(())
        for name, value in {**self.losses(render, step), **kept}.items():
            total = total + weights[name] * value
            terms = {f'loss_{name}': value.detach(), f'loss_{name}_weighted': weights[name] * value.detach()}
            self.log_dict(terms, sync_dist=True)
        return total

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the norm of the whole gradient."""
        gradients = [p.grad.detach() for p in self.parameters() if p.grad is not None]
        if gradients:
            self.log('gradient_norm', torch.nn.utils.get_total_norm(gradients))

    def setup_optimization(
        self, optim_config: DictConfig | Mapping | None = None, optim_kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Set up optimizer and schedule as NeMo does; on a GPU torch's Adam and AdamW run as one kernel."""
        fused = fused_options(optim_config or self.options.get('optim'), self.device)
        made = super().setup_optimization(optim_config, {**fused, **(optim_kwargs or {})})
        if self._optimizer is not None:
            take_unscaled(self._optimizer)
        return made

    def setup_optimizer_param_groups(self) -> None:
        """Make two groups: the field's encoding learns ``encoding_lr_ratio`` times as fast as everything else.

        NeMo's node ``model.optim_param_groups`` replaces them: {part: {option: value}}, for example {nerf: {lr: 1e-2}};
        what it does not name learns as ``model.optim`` says.
        """
        if self.cfg.get('optim_param_groups') or not self.options.get('optim'):
            super().setup_optimizer_param_groups()
            return
        encoding = self.nerf.parameter_groups()['encoding']
        known = {id(p) for p in encoding}
        others = [p for p in self.parameters() if id(p) not in known]
        groups: list[dict[str, Any]] = [{'params': others}] if others else []
        if encoding:
            groups.append({'params': encoding, 'lr': self.options['encoding_lr_ratio'] * self.options['optim']['lr']})
        self._optimizer_param_groups = groups

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Add what the guidance itself trains (variational scores)."""
        checkpoint['guidance'] = self.guidance.training_state()

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Give the guidance back what it had trained."""
        if checkpoint.get('guidance'):
            self.guidance.load_training_state(checkpoint['guidance'])

    # Looking at the scene

    @torch.no_grad()
    def render_cameras(
        self, cameras: CameraBatch, *, shading: Shading = 'albedo', with_normals: bool = False
    ) -> RenderOutput:
        """Render B views in evaluation mode (fixed background, no jitter), on this model's device.

        Args:
            cameras: B cameras, on any device.
            shading: one of ``SHADINGS``.
            with_normals: fill ``normals`` whatever the shading.

        Returns:
            Images [B, H, W, C] without a gradient.
        """
        was_training = self.training
        self.eval()
        try:
            cameras = cameras.to(self.device)
            return self.renderer.render(rays(cameras), self.scene, shading=shading, with_normals=with_normals)
        finally:
            self.train(was_training)

    @torch.no_grad()
    def render_background(self, cameras: CameraBatch) -> Tensor:
        """Return what :meth:`render_cameras` shows behind the object: B cameras -> [B, H, W, 3]."""
        if (color := self.background.uniform()) is not None:
            return color.to(self.device).expand(len(cameras), cameras.height, cameras.width, 3)
        was_training = self.training
        self.eval()
        try:
            bundle = rays(cameras.to(self.device))
            return self.background(bundle).view(*bundle.image_shape, 3)
        finally:
            self.train(was_training)

    def validation_step(self, batch: CameraBatch, batch_idx: int) -> RenderOutput:
        """Render one held-out view; the callbacks save it."""
        return self.render_cameras(batch)

    def test_step(self, batch: CameraBatch, batch_idx: int) -> RenderOutput:
        """Render one view of the test orbit; the callbacks save it."""
        return self.render_cameras(batch)

    def predict_step(self, batch: CameraBatch, batch_idx: int) -> RenderOutput:
        """Render one batch of cameras, with normals."""
        return self.render_cameras(batch, with_normals=True)

    def on_validation_epoch_end(self) -> None:
        """Do nothing: the callbacks save the images (NeMo's default expects dictionaries)."""

    def on_test_epoch_end(self) -> None:
        """Do nothing: the callbacks save the images."""

    # NeMo

    def setup_training_data(self, train_data_config: DictConfig | Mapping | None = None) -> None:
        """Do nothing: the data are those of :class:`nemo_dreamfusion.data.datamodule.CameraDataModule`."""

    def setup_validation_data(self, val_data_config: DictConfig | Mapping | None = None) -> None:
        """Do nothing: the data are those of the data module."""

    def setup_test_data(self, test_data_config: DictConfig | Mapping | None = None) -> None:
        """Do nothing: the data are those of the data module."""

    @classmethod
    def list_available_models(cls) -> list:
        """Return an empty list: no finished objects are published, each is made from a prompt."""
        return []

    def save_to(self, save_path: str) -> Any:
        """Write a ``.nemo`` archive with checksums, whole or not at all."""
        self._save_restore_connector = SafeConnector()
        return super().save_to(save_path)

    def to_config_file(self, path2yaml_file: str) -> None:
        """Write the configuration as it is kept: NeMo's own would resolve it once more, and a prompt may hold ``${``."""
        OmegaConf.save(self.cfg, path2yaml_file)

    @classmethod
    def from_config_dict(cls, config: DictConfig, *args: Any, **kwargs: Any) -> Any:
        """Make an object from its configuration, as NeMo does where it restores one."""
        return super().from_config_dict(literal_when_resolved(config), *args, **kwargs)

    @classmethod
    def restore_from(cls, restore_path: str, *args: Any, **kwargs: Any) -> Any:
        """Restore an archive with NeMo's arguments; see :func:`restore_safely` for its errors."""
        return restore_safely(super().restore_from, cls, restore_path, *args, **kwargs)

    @classmethod
    def from_pretrained(cls, model_name: str, *args: Any, **kwargs: Any) -> Any:
        """Restore an archive of the Hugging Face Hub; see :func:`fetch_safely` for its errors."""
        return fetch_safely(super().from_pretrained, model_name, *args, **kwargs)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str, *args: Any, **kwargs: Any) -> DreamFusion:
        """Load a checkpoint with NeMo's arguments, as plain data: no code in the file runs."""
        buffer = io.BytesIO()
        torch.save(read_checkpoint(checkpoint_path), buffer)  # Lightning's own reader would run what is pickled
        buffer.seek(0)
        return super().load_from_checkpoint(buffer, *args, **kwargs)

    def start_from(self, path: str) -> bool:
        """Take over the weights of a finished object; see :func:`~nemo_dreamfusion.models.starting.start_from_archive`."""
        return start_from_archive(self, path)

    def begin_edit(self) -> None:
        """Keep the object as it is now for the edit to compare with; where ``model.edit`` asks for none, do nothing."""
        if self.edit_options is not None:
            self.edit = Edit(self.edit_options, self.scene, self.renderer)
