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


"""Guidance by a Stable Diffusion, whatever file its weights come from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from nemo_dreamfusion.checkpoints.base import Checkpoint
from nemo_dreamfusion.checkpoints.masked_language_model import ViewLikelihood
from nemo_dreamfusion.modules.guidance import latent_maps, memory_plan
from nemo_dreamfusion.modules.guidance.base import Guidance
from nemo_dreamfusion.modules.guidance.diffusion import NoiseModel, NoiseSchedule, random_normal
from nemo_dreamfusion.modules.guidance.distillation.base import Score, distillation_loss
from nemo_dreamfusion.modules.guidance.distillation.sds import ScoreDistillationSampling
from nemo_dreamfusion.modules.guidance.families import Family, family_of
from nemo_dreamfusion.modules.guidance.guidance_mixing import Conditioning, EditSource, GuidanceMixing
from nemo_dreamfusion.modules.guidance.latent_map_cache import cached_linear_map
from nemo_dreamfusion.modules.guidance.latent_maps import LatentOptions, LinearLatentMap
from nemo_dreamfusion.modules.guidance.networks.base import UNetLike
from nemo_dreamfusion.modules.guidance.networks.cuda_graphs import RecordedNetwork
from nemo_dreamfusion.modules.guidance.networks.fp8 import InFp8, check_fp8
from nemo_dreamfusion.modules.guidance.networks.options import NetworkOptions
from nemo_dreamfusion.modules.guidance.networks.packing import pack_convolutions
from nemo_dreamfusion.modules.guidance.networks.precision import weight_dtype
from nemo_dreamfusion.modules.guidance.networks.unet import NoisePredictor, check_channels
from nemo_dreamfusion.modules.guidance.networks.vae import ImageLatents
from nemo_dreamfusion.modules.guidance.prompt_cache import PromptCache
from nemo_dreamfusion.modules.guidance.prompts import (
    PromptEmbeddings,
    PromptOptions,
    remove_view_bias,
)
from nemo_dreamfusion.modules.guidance.tensor_cache import cache_folder
from nemo_dreamfusion.modules.guidance.timesteps import TimestepSchedule, UniformTimesteps
from nemo_dreamfusion.parts.build import Configurable
from nemo_dreamfusion.parts.checks import refuse
from nemo_dreamfusion.parts.types import CameraBatch, GuidanceOutput, PromptSet, RenderOutput

logger = logging.getLogger(__name__)


class StableDiffusionGuidance(Configurable, Guidance):
    """Score distillation from a latent diffusion model.

    The weights are frozen: gradients reach the render, never a parameter. Half precision is for the weights only;
    latents, score and loss are float32.

    Args:
        weights: where the networks come from.
        score: from predicted noise to a gradient; SDS where none is given.
        timesteps: the diffusion times over the run; uniform where none is given.
        mixing: guidance scale, rescale, Perp-Neg.
        prompts: how the views' texts are made and mixed.
        latents: how a render becomes a latent.
        networks: precision, speed and memory of UNet and VAE encoder.

    Attributes:
        schedule, noise_predictor, noise_model, encode, linear_map, embeddings, source_embeddings: known after
            :meth:`prepare`: the noise schedule, the UNet (or the engine in its place), the UNet as a predictor of noise,
            images to latents, the latent phase's map, the encoded texts, and of an edit those of what was there before.
    """

    NOT_OPTIONS = ('weights',)

    schedule: NoiseSchedule
    noise_predictor: UNetLike
    noise_model: NoiseModel
    encode: ImageLatents
    linear_map: LinearLatentMap
    embeddings: PromptEmbeddings
    source_embeddings: PromptEmbeddings | None

    def __init__(
        self,
        *,
        weights: Checkpoint,
        score: Score | None = None,
        timesteps: TimestepSchedule | None = None,
        mixing: GuidanceMixing | None = None,
        prompts: PromptOptions | None = None,
        latents: LatentOptions | None = None,
        networks: NetworkOptions | None = None,
    ) -> None:
        self.weights = weights
        self.score = score or ScoreDistillationSampling()
        self.timesteps = timesteps or UniformTimesteps()
        self.mixing = mixing or GuidanceMixing()
        self.prompt_options = prompts or PromptOptions()
        self.latent_options = latents or LatentOptions()
        self.network_options = networks or NetworkOptions()
        self.score.check_mixing(self.mixing)
        self.network_options.check_score(self.score.trains_unet)
        self._prepared_for: tuple[PromptSet, str] | None = None
        self._state: dict[str, Any] = {}

    @cached_property
    def family(self) -> Family:
        """What the family of the model has of its own; its files say which it is."""
        return family_of(self.weights)

    # Before the fit

    def check_prompts(self, prompts: PromptSet) -> None:
        debias = self.prompt_options.debias
        if debias and prompts.views:
            refuse('model.guidance.prompts.debias', debias, 'null beside model.views: it knows four views')
        if self.network_options.fp8:
            check_fp8()
        self.weights.check()
        self._check_family()
        self._check_texts(prompts)

    def _check_texts(self, prompts: PromptSet) -> None:
        """Refuse texts that the model cannot read, the words that a score adds to them included."""
        self.family.check_prompts(prompts)
        self._check_source(prompts)
        words = self.score.fault_words
        if words:
            try:
                self.family.check_prompts(PromptSet(words, added=('', '', '', '')))
            except ValueError as error:
                advice = 'Set model.guidance.score.fault_words to words that it knows.'
                raise ValueError(
                    f'model.guidance.score.fault_words={words!r} cannot be read. {advice} {error}'
                ) from error

    def _check_source(self, prompts: PromptSet) -> None:
        """Refuse a score that edits without a text of what is there, such a text beside any other score, and its words."""
        key, name = 'model.edit.source_prompt', type(self.score).__name__
        if self.score.compares_source and not prompts.source:
            refuse(key, None, f'what the object is now, with {name}', f"Set {key}='a red cube', as it was made.")
        if prompts.source and not self.score.compares_source:
            refuse(
                'model.guidance.score', name, f'one that edits, beside {key}', 'Take --config-name dreamfusion-edit.'
            )
        if prompts.source:
            try:
                self.family.check_prompts(prompts.before())
            except ValueError as error:
                raise ValueError(f'{key}={prompts.source!r} cannot be read. {error}') from error

    def _check_family(self) -> None:
        """Refuse options that the family of the model cannot follow. Loads no weights."""
        if self.score.trains_unet and not self.family.trains_unet:
            allowed = f'one that trains no adapters inside the UNet, as all but vsd, with {self.family.title}'
            refuse('model.guidance.score', type(self.score).__name__, allowed, 'Set model/guidance/score=sds.')
        self.family.check_networks(self.network_options)

    def say_memory(self, device: torch.device | str, *, images: int, scene: int) -> None:
        rows = images * (2 if self.mixing.perp_neg is None else 4)
        options = (self.network_options, self.latent_options)
        memory_plan.say_memory(
            self.family, *options, rows=rows, images=images, device=torch.device(device), scene=scene
        )

    def prepare(self, prompts: PromptSet, device: torch.device | str) -> None:
        """Load the networks and encode the texts; for other prompts on the same device only the texts are encoded again."""
        device = torch.device(device)
        records = self.network_options.records(device)
        if self.network_options.fp8:
            check_fp8(device)
        if self._prepared_for == (prompts, str(device)):
            return
        self._check_family()
        self._check_texts(prompts)
        dtype = weight_dtype(self.network_options.precision, device)
        self.embeddings = self._encode_prompts(prompts, dtype, device)
        self.source_embeddings = self._encode_prompts(prompts.before(), dtype, device) if prompts.source else None
        if self._prepared_for is None:
            self._load_networks(dtype, device)
            if records:
                self.record_networks()
        elif self._prepared_for[1] != str(device):
            raise ValueError(f'The guidance is already on {self._prepared_for[1]}: make another one for {device}.')
        self.weights.release()
        self._prepared_for = (prompts, str(device))

    def _encode_prompts(self, prompts: PromptSet, dtype: torch.dtype, device: torch.device) -> PromptEmbeddings:
        """Encode all texts; the text encoders are freed when this returns."""
        if self.prompt_options.debias:
            likelihood = ViewLikelihood(self.prompt_options.debias, local_files_only=self.weights.local_files_only)
            prompts = remove_view_bias(prompts, likelihood)
        return PromptEmbeddings.encode(
            prompts,
            lambda texts: self._look_up_texts(texts, dtype, device),
            options=self.prompt_options,
            fault_words=self.score.fault_words,
        )

    def _look_up_texts(self, texts: Sequence[str], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return the contexts of texts [n, L, D] from the cache, where one is kept; encode those that are not there."""
        folder, names = cache_folder(self.prompt_options.cache), self.family.text_identity()
        if folder is None or names is None:
            return self._encode_texts(texts, dtype, device)
        self.family.warn_of_dropped_words(texts)
        cache = PromptCache(folder, [names, str(dtype)])
        return cache.encode(texts, lambda some: self._encode_texts(some, dtype, device)).to(device)

    def _encode_texts(self, texts: Sequence[str], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return what the noise predictor takes for each text: [n, L, D], float32, on the device."""
        return self.family.encode(texts, dtype, device)

    def _load_noise_predictor(self, dtype: torch.dtype, device: torch.device) -> UNetLike:
        """Load the frozen UNet, or what stands for it: called like one, with its ``channels`` and ``latent_size``."""
        predictor = self.family.load_noise_predictor(dtype, device, self.network_options)
        return InFp8(predictor) if self.network_options.fp8 else predictor

    def _load_networks(self, dtype: torch.dtype, device: torch.device) -> None:
        predictor = self._load_noise_predictor(dtype, device)
        self.encode = self.family.load_image_latents(dtype, device, self.network_options)
        check_channels(predictor.channels, self.encode.channels)
        if not self.network_options.compile:
            pack_convolutions(self.encode.encoder)
            if isinstance(predictor, NoisePredictor) and not self.score.trains_unet:
                pack_convolutions(predictor)
        if self.latent_options.image_size is not None:
            predictor.latent_size = self.latent_options.latent_size(self.encode.factor)
        self.schedule = self.family.load_schedule(predictor.latent_size).to(device)
        self.noise_predictor = predictor
        self.noise_model = NoiseModel(predictor, self.schedule)
        if self.latent_options.latent_map == 'linear':
            # Some calls of another size than a step's: compiling for those would take long, and make the step's slower.
            self.encode.stand_in = self.encode.encoder.forward
            folder = cache_folder(self.latent_options.cache, 'latent_maps')
            self.linear_map = cached_linear_map(folder, self.encode, self.image_size, device)
            self.encode.stand_in = None
            explained = ', '.join(f'{share:.2f}' for share in self.linear_map.r2)
            logger.info('The linear latent map explains %s of the variance of the latent channels.', explained)
        self.score.views = self.family.views
        self.score.prepare(self.schedule, predictor if isinstance(predictor, NoisePredictor) else None)
        if self._state:
            self.score.load_state(self._state)

    def record_networks(self) -> None:
        """Replay UNet and VAE encoder from now on, where they can be recorded (an engine's plan stays as it is)."""
        if not self.network_options.checkpoint_vae:
            self.encode.stand_in = RecordedNetwork(self.encode.encoder)
        recordable = self.family.recordable and not self.score.trains_unet and not self.network_options.fp8
        if recordable and isinstance(self.noise_predictor, nn.Module):
            self.noise_model.network = RecordedNetwork(self.noise_predictor)

    def training_state(self) -> dict[str, Any]:
        """Return what the score has learnt."""
        return self._state if self._prepared_for is None else self.score.state()

    def load_training_state(self, state: dict[str, Any]) -> None:
        self._state = state
        if self._prepared_for is not None and state:
            self.score.load_state(state)

    # Sizes

    @property
    def latent_size(self) -> int:
        """Side of the latents, latent pixels: the UNet's own."""
        return self.noise_predictor.latent_size

    @property
    def image_size(self) -> int:
        """Side of the image that the VAE encodes to latents of that size, pixels."""
        return self.latent_size * self.encode.factor

    def needs_normals(self, *, latent: bool) -> bool:
        """Return whether normals stand for latents, which they do in the latent phase only."""
        return latent and self.latent_options.latent_map == 'normal_opacity'

    # One step

    def latents(self, render: RenderOutput, *, latent: bool, generator: torch.Generator | None = None) -> Tensor:
        """Return what the score looks at: [B, C, h, w], float32, with a gradient to the render.

        Args:
            render: B square images.
            latent: take the render for a latent instead of encoding its image.
            generator: for the sample of the VAE's posterior, where the options ask for one.

        Raises:
            ValueError: for renders that are not square.
        """
        if render.image.shape[1] != render.image.shape[2]:
            raise ValueError(f'The guidance needs square renders, not {tuple(render.image.shape[1:3])} pixels.')
        if latent and self.latent_options.latent_map == 'normal_opacity':
            return latent_maps.normal_opacity_latents(render, self.latent_size)
        if latent:
            return self.linear_map(render.image, self.latent_size)
        image = latent_maps.resize(render.image.permute(0, 3, 1, 2).float(), self.image_size)
        return self.encode(image.permute(0, 2, 3, 1), generator if self.latent_options.sample_posterior else None)

    def _sample_times(self, batch: int, progress: float, generator: torch.Generator) -> Tensor:
        drawn = 1 if self.score.one_time_per_batch else batch // self.family.views
        times = self.timesteps.sample(drawn, len(self.schedule), progress, generator)
        return times.repeat_interleave(batch // drawn)

    def _condition(self, embeddings: PromptEmbeddings, cameras: CameraBatch) -> Conditioning:
        conditioning = embeddings.conditioning(cameras, perp_neg=self.mixing.perp_neg)
        return self.family.condition(conditioning, cameras)

    def loss(
        self,
        render: RenderOutput,
        cameras: CameraBatch,
        *,
        step: int,
        progress: float,
        latent: bool,
        generator: torch.Generator,
        source: RenderOutput | None = None,
    ) -> GuidanceOutput:
        """Return 0.5 |g|^2 / B, whose gradient with respect to the latents of the render is g / B.

        The cameras choose each image's text and give its pose; ``progress`` sets the range of times and the gradient's
        limit.
        """
        device = render.image.device
        self.family.check_cameras(cameras)
        with torch.autocast(device.type, enabled=False):  # the weights have their precision; the rest is float32
            x0 = self.latents(render, latent=latent, generator=generator)
            t = self._sample_times(len(x0), progress, generator).to(device)
            with torch.no_grad():
                here = cameras.to(device)
                conditioning = self._condition(self.embeddings, here)
                if source is not None and self.source_embeddings is not None:
                    before = self._condition(self.source_embeddings, here)
                    seen = self.latents(source, latent=latent, generator=generator)
                    conditioning = replace(conditioning, source=EditSource(seen, before))
                self.score.start_step(progress)
                g = self.score.gradient(
                    x0.detach(),
                    t,
                    conditioning,
                    model=self.noise_model,
                    mixing=self.mixing.at(progress),
                    generator=generator,
                )
                g = self.score.clip(g, progress)
            loss = distillation_loss(x0, g)
            self.score.learn(x0.detach(), conditioning, generator)
        return GuidanceOutput(loss=loss, timesteps=t, gradient_norm=g.flatten(1).norm(dim=1).mean())

    @torch.no_grad()
    def compare_words(
        self, render: RenderOutput, cameras: CameraBatch, *, share: float, generator: torch.Generator
    ) -> Tensor:
        assert self.source_embeddings is not None, 'prepare() had prompts with a source'
        device = render.image.device
        self.family.check_cameras(cameras)
        with torch.autocast(device.type, enabled=False):
            x0 = self.latents(render, latent=False, generator=generator)
            t = torch.full((len(x0),), int(share * (len(self.schedule) - 1)), device=device)
            noisy = self.schedule.add_noise(x0, random_normal(x0.shape, generator, device), t)
            here = cameras.to(device)
            texts = [self._condition(words, here).text for words in (self.embeddings, self.source_embeddings)]
            after, before = self.noise_model(noisy, t, texts)
        return after - before
