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
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nemo_dreamfusion.checkpoints.base import Checkpoint
from nemo_dreamfusion.checkpoints.masked_language_model import ViewLikelihood
from nemo_dreamfusion.modules.guidance import diffusion as score_distillation
from nemo_dreamfusion.modules.guidance import latent_maps, networks, scores
from nemo_dreamfusion.modules.guidance.base import Guidance
from nemo_dreamfusion.modules.guidance.cuda_graphs import RecordedNetwork, Recording
from nemo_dreamfusion.modules.guidance.debiasing import debiased
from nemo_dreamfusion.modules.guidance.diffusion import NoiseModel, NoiseSchedule
from nemo_dreamfusion.modules.guidance.guiders import Guider
from nemo_dreamfusion.modules.guidance.lora import LoraNoise
from nemo_dreamfusion.modules.guidance.perp_neg import PERP_NEG
from nemo_dreamfusion.modules.guidance.precision import weight_dtype
from nemo_dreamfusion.modules.guidance.prompts import PromptEmbeddings, check_overhead, check_prompts, check_view_blend
from nemo_dreamfusion.modules.guidance.scores import SCORES, Score
from nemo_dreamfusion.modules.guidance.timesteps import TimestepSampler, check_progress_schedule
from nemo_dreamfusion.parts.build import Configurable
from nemo_dreamfusion.parts.checks import check_choice
from nemo_dreamfusion.parts.compilation import check_compile
from nemo_dreamfusion.parts.schedules import Schedule, linear_schedule
from nemo_dreamfusion.parts.types import CameraBatch, GuidanceOutput, PromptSet, RenderOutput

logger = logging.getLogger(__name__)


class StableDiffusionGuidance(Configurable, Guidance):
    """Score distillation from a latent diffusion model.

    The weights are frozen: gradients reach the render, never a parameter. Half precision is for the weights only;
    latents, score and loss are float32.

    Args:
        weights: where the networks come from.
        precision: of the weights, in any of Lightning's spellings; ``${trainer.precision}`` will do. ``auto``: float16 on a
            GPU, bfloat16 on a CPU that multiplies it in hardware, else 32.
        guidance_scale: s of eps_unconditional + s (eps_text - eps_unconditional). DreamFusion's omega = 100 is s = 101.
        guidance_rescale: 0 to 1, arXiv 2305.08891; 0 with ``score: csd``.
        score: one of ``SCORES``.
        weighting: w(t): ``sds`` (1 - abar), ``uniform``, ``fantasia3d`` or ``residual``.
        min_step_ratio: lowest diffusion time as a share of all; a number or [start, from, to, end], start and end as
            shares of the run.
        max_step_ratio: highest, likewise: [0.2, 0.98, 0.2, 0.8] is 0.98 for a fifth of the run, then falls to 0.2 at 80 %.
        time_sampling: ``uniform`` within the range, or ``sqrt`` / ``dreamtime``, which descend through it.
        grad_clip: largest magnitude of an element of the score's gradient; null, a number or [start, from, to, end].
        latent_map: what stands for a latent in the latent phase: ``linear`` (of colours) or ``normal_opacity``.
        sample_posterior: draw the VAE's latent from its posterior instead of taking the mode.
        view_blend_deg: [first, full] azimuths from the front between which its text fades into the side's (and from the
            back, likewise): [0, 90] mixes everywhere; a model whose captions switch at 60 degrees wants [50, 70].
        overhead_elevation_deg: [first, full] elevations between which the overhead text fades in.
        perp_neg: null, or whose curve weighs the views' negatives: ``threestudio`` or ``stable_dreamfusion``.
        debias: null, or a masked language model (folder or hub id) that takes words that speak against a view out of it.
        ism_interval: t - s of ``score: ism``, in diffusion steps.
        ism_inversion_step: largest step of its inversion.
        vsd_rank: of the adapters that ``score: vsd`` learns.
        vsd_learning_rate: of their optimizer.
        attention: ``sdpa`` (the kernel that torch chooses), ``flash`` (its flash kernel or an error; half precision on a
            GPU), ``math`` (the plain formula) or ``xformers``; of UNet and VAE encoder, but flash of the UNet alone.
        channels_last: memory layout of the convolutions.
        vae_slicing: encode the images of a batch one after another.
        checkpoint_vae: recompute the VAE encoder's activations in the backward pass instead of keeping them.
        compile: false, true, or the name of a torch.compile backend, for UNet and VAE encoder.
        cuda_graphs: false, true, or ``auto`` (on a single CUDA device what can be): record UNet and VAE encoder once and
            replay them, compiled or not. ``score: vsd`` speaks against the UNet's, ``checkpoint_vae`` against the encoder's.
    """

    NOT_OPTIONS = ('weights',)

    def __init__(
        self,
        *,
        weights: Checkpoint,
        precision: int | str | None = 32,
        guidance_scale: float = 100.0,
        guidance_rescale: float = 0.0,
        score: str = 'sds',
        weighting: str = 'sds',
        min_step_ratio: Schedule = 0.02,
        max_step_ratio: Schedule = 0.98,
        time_sampling: str = 'uniform',
        grad_clip: Schedule | None = None,
        latent_map: str = 'linear',
        sample_posterior: bool = False,
        view_blend_deg: Any = (0.0, 90.0),
        overhead_elevation_deg: Any = (60.0, 75.0),
        perp_neg: str | None = None,
        debias: str | None = None,
        ism_interval: int = 50,
        ism_inversion_step: int = 200,
        vsd_rank: int = 4,
        vsd_learning_rate: float = 1e-4,
        attention: str = 'sdpa',
        channels_last: bool = False,
        vae_slicing: bool = False,
        checkpoint_vae: bool = False,
        compile: bool | str = False,
        cuda_graphs: bool | str = False,
    ) -> None:
        super().__init__()
        self.weights = weights
        self.precision = precision
        weight_dtype(precision, 'cpu')  # a word that is none is refused before any work
        self.guider = Guider(scale=guidance_scale, rescale=guidance_rescale)
        self.score_name = check_choice('model.guidance.score', score, SCORES)
        scores.check_rescale(score, self.guider.rescale)
        self.score_options = {
            'ism': {'interval': ism_interval, 'inversion_step': ism_inversion_step},
            'vsd': {'rank': vsd_rank, 'learning_rate': vsd_learning_rate},
        }
        self.weighting = check_choice('model.guidance.weighting', weighting, score_distillation.WEIGHTINGS)
        self.times = TimestepSampler(
            min_step_ratio=min_step_ratio, max_step_ratio=max_step_ratio, sampling=time_sampling
        )
        self.grad_clip = grad_clip and check_progress_schedule('model.guidance.grad_clip', grad_clip, 0, 1e9)
        self.latent_map = check_choice('model.guidance.latent_map', latent_map, latent_maps.LATENT_MAPS)
        self.sample_posterior = bool(sample_posterior)
        self.view_blend_deg = check_view_blend(view_blend_deg)
        self.overhead_elevation_deg = check_overhead(overhead_elevation_deg)
        self.perp_neg = perp_neg and check_choice('model.guidance.perp_neg', perp_neg, PERP_NEG)
        self.debias = debias
        self.switches = networks.Switches(
            attention=attention,
            channels_last=bool(channels_last),
            vae_slicing=bool(vae_slicing),
            checkpoint_vae=bool(checkpoint_vae),
            compile=compile,
        )
        check_compile('model.guidance.compile', compile)
        self.recording = Recording(cuda_graphs, score, bool(checkpoint_vae))
        if score == 'vsd' and compile:
            raise ValueError(
                'model.guidance.score=vsd switches adapters on and off: set model.guidance.compile=false.'
            )
        self.score: Score | None = None
        self.linear_map: latent_maps.LinearLatentMap | None = None
        self._prepared_for: tuple[PromptSet, str] | None = None
        self._state: dict[str, Any] = {}

    # --- before the fit -------------------------------------------------------------------------------------------

    def check_prompts(self, prompts: PromptSet) -> None:
        """See :meth:`Guidance.check_prompts`; asks the tokenizer."""
        self.weights.check()
        check_prompts(self.weights.tokenizer(), prompts)

    def prepare(self, prompts: PromptSet, device: torch.device | str) -> None:
        """See :meth:`Guidance.prepare`. For other prompts on the same device only the texts are encoded again."""
        device = torch.device(device)
        recorded = self.recording.takes_place(device)
        if self._prepared_for == (prompts, str(device)):
            return
        self.dtype = weight_dtype(self.precision, device)
        self.embeddings = self._encode_prompts(prompts, device)
        if self.score is None:
            self._load_networks(device)
            if recorded:
                self.record_networks()
        elif self._prepared_for[1] != str(device):
            raise ValueError(f'The guidance is already on {self._prepared_for[1]}: make another one for {device}.')
        self.weights.release()
        self._prepared_for = (prompts, str(device))

    def _encode_prompts(self, prompts: PromptSet, device: torch.device) -> PromptEmbeddings:
        """Encodes all texts; the text encoder is freed when this returns."""
        encoder = self._text_encoder(device)  # first: its sizes are then known to the tokenizer
        tokenizer = self.weights.tokenizer()
        check_prompts(tokenizer, prompts)
        if self.debias:
            likelihood = ViewLikelihood(self.debias, local_files_only=self.weights.local_files_only)
            prompts = debiased(prompts, likelihood)
        return PromptEmbeddings.encode(
            prompts,
            tokenizer,
            encoder,
            device=device,
            overhead_elevation_deg=self.overhead_elevation_deg,
            view_blend_deg=self.view_blend_deg,
        )

    def _text_encoder(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Tokens [n, L] -> embeddings [n, L', D]."""
        encoder = networks.TextEncoder(self.weights.text_encoder(self.dtype), self.weights.context_length())
        return networks.frozen(encoder, device)

    def _noise_predictor(self, device: torch.device) -> networks.NoisePredictor:
        """The frozen UNet, or what stands for it: called like one, with its ``channels`` and ``latent_size``."""
        return networks.load_noise_predictor(self.weights, self.dtype, device, self.switches)

    def _load_networks(self, device: torch.device) -> None:
        self.schedule = NoiseSchedule.from_config(self.weights.scheduler_config()).to(device)
        self.noise_predictor = self._noise_predictor(device)
        self.encode = networks.load_image_latents(self.weights, self.dtype, device, self.switches)
        networks.check_channels(self.noise_predictor.channels, self.encode.channels)
        self._latent_size = self.noise_predictor.latent_size
        if self.latent_map == 'linear':
            # Some calls of another size than a step's: compiling for those would take long, and make the step's slower.
            self.encode.stand_in = self.encode.encoder.forward
            self.linear_map = latent_maps.fit_linear_map(self.encode, self.image_size, self.encode.factor, device)
            self.encode.stand_in = None
            explained = ', '.join(f'{share:.2f}' for share in self.linear_map.r2)
            logger.info('The linear latent map explains %s of the variance of the latent channels.', explained)
        self.score = self._make_score()
        if self._state:
            self.score.load_state(self._state)

    def record_networks(self) -> None:
        """From now on UNet and VAE encoder are replayed (a plan of an engine stays as it is)."""
        if self.recording.encoder:
            self.encode.stand_in = RecordedNetwork(self.encode.encoder)
        if self.recording.unet and isinstance(self.noise_predictor, networks.NoisePredictor):
            self.score.model.network = RecordedNetwork(self.noise_predictor)

    def _make_score(self) -> Score:
        def weight(t: Tensor) -> Tensor:
            return score_distillation.weight(self.weighting, self.schedule, t)

        common = (NoiseModel(self.noise_predictor, self.schedule), self.guider, weight)
        if self.score_name == 'vsd':
            learned = LoraNoise(self.noise_predictor.unet, self.schedule, **self.score_options['vsd'])
            return scores.VariationalScore(*common, learned=learned)
        if self.score_name == 'ism':
            return scores.IntervalScore(*common, **self.score_options['ism'])
        return {'sds': scores.ScoreDistillation, 'csd': scores.ClassifierScore}[self.score_name](*common)

    def training_state(self) -> dict[str, Any]:
        """See :meth:`Guidance.training_state`: what the score has learnt."""
        return self._state if self.score is None else self.score.state()

    def load_training_state(self, state: dict[str, Any]) -> None:
        """See :meth:`Guidance.load_training_state`."""
        self._state = state
        if self.score is not None and state:
            self.score.load_state(state)

    # --- sizes ----------------------------------------------------------------------------------------------------

    @property
    def latent_size(self) -> int:
        """Side of the latents, latent pixels: the UNet's own."""
        return self._latent_size

    @property
    def image_size(self) -> int:
        """Side of the image that the VAE encodes to latents of that size, pixels."""
        return self._latent_size * self.encode.factor

    def needs_normals(self, *, latent: bool) -> bool:
        """In the latent phase, where normals stand for latents."""
        return latent and self.latent_map == 'normal_opacity'

    # --- one step -------------------------------------------------------------------------------------------------

    def latents(self, render: RenderOutput, *, latent: bool, generator: torch.Generator | None = None) -> Tensor:
        """What the score looks at: [B, C, h, w], float32, with a gradient to the render."""
        if render.image.shape[1] != render.image.shape[2]:
            raise ValueError(f'The guidance needs square renders, not {tuple(render.image.shape[1:3])} pixels.')
        if latent and self.latent_map == 'normal_opacity':
            return latent_maps.normal_opacity_latents(render, self.latent_size)
        if latent:
            return self.linear_map(render.image, self.latent_size)
        image = latent_maps.resize(render.image.permute(0, 3, 1, 2).float(), self.image_size)
        return self.encode(image.permute(0, 2, 3, 1), generator if self.sample_posterior else None)

    def _sample_times(self, batch: int, progress: float, generator: torch.Generator) -> Tensor:
        drawn = 1 if self.score.one_time_per_batch else batch
        return self.times.sample(drawn, len(self.schedule), progress, generator).expand(batch)

    def loss(
        self,
        render: RenderOutput,
        cameras: CameraBatch,
        *,
        step: int,
        progress: float,
        latent: bool,
        generator: torch.Generator,
    ) -> GuidanceOutput:
        """See :meth:`Guidance.loss`: 0.5 |g|^2 / B in value, g / B in its gradient to the latents of the render."""
        device = render.image.device
        with torch.autocast(device.type, enabled=False):  # the weights have their precision; the rest is float32
            x0 = self.latents(render, latent=latent, generator=generator)
            t = self._sample_times(len(x0), progress, generator).to(device)
            with torch.no_grad():
                conditioning = self.embeddings.conditioning(cameras.to(device), perp_neg=self.perp_neg)
                g = self.score.gradient(x0.detach(), t, conditioning, generator)
                limit = None if self.grad_clip is None else linear_schedule(self.grad_clip, progress)
                g = score_distillation.tame(g, limit)
            loss = score_distillation.distillation_loss(x0, g)
            self.score.learn(x0.detach(), conditioning, generator)
        return GuidanceOutput(loss=loss, timesteps=t, gradient_norm=g.flatten(1).norm(dim=1).mean())
