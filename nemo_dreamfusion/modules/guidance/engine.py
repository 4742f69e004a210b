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

"""Guidance by engines: UNet and text encoder run in TensorRT or ONNX Runtime, the VAE's encoder in torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nemo_dreamfusion.checkpoints.sources import open_checkpoint
from nemo_dreamfusion.modules.guidance.engines.plans import ENGINES, PACKAGES, Plans, read_plans
from nemo_dreamfusion.modules.guidance.engines.runner import Runner
from nemo_dreamfusion.modules.guidance.families.sd import encode_tokens
from nemo_dreamfusion.modules.guidance.latent_maps import IMAGE_SIZE
from nemo_dreamfusion.modules.guidance.networks.fp8 import FP8
from nemo_dreamfusion.modules.guidance.prompts import tokenize
from nemo_dreamfusion.modules.guidance.stable_diffusion import StableDiffusionGuidance
from nemo_dreamfusion.parts.checks import check_choice, refuse
from nemo_dreamfusion.parts.types import PromptSet


class EngineGuidance(StableDiffusionGuidance):
    """Score distillation through the plans that ``nemo-dreamfusion-build-engines`` makes of a checkpoint.

    The plans give the noise prediction and the embeddings of the texts, in the precision they were built with. Tokenizer,
    noise schedule and the VAE's encoder, which needs a gradient, come from the checkpoint; ``networks`` acts on that
    encoder.

    Args:
        plan_dir: the folder with ``clip.plan``, ``unet.plan`` and ``conf.yaml``.
        checkpoint: what the plans were built from: a ``.nemo`` file, a folder in diffusers' format, a hub id, or
            ``pocket``. Plans of other weights are refused.
        engine: ``tensorrt`` or ``onnxruntime``, as the plans were built; ``onnxruntime`` also runs what was built for
            TensorRT, through the folder ``onnx`` beside the plans.
        tokenizer: folder or hub id of the tokenizer; null takes the checkpoint's own, or the one that it names.
        local_files_only: never ask the hub, read its cache only.
        options: everything else that :class:`StableDiffusionGuidance` takes, but what reaches into a UNet in torch: a score
            that trains adapters in it, ``networks.attention`` and ``networks.fp8``.
    """

    plans: Plans

    def __init__(
        self,
        *,
        plan_dir: str,
        checkpoint: str,
        engine: str = 'tensorrt',
        tokenizer: str | None = None,
        local_files_only: bool = False,
        **options: Any,
    ) -> None:
        for name, value in (('plan_dir', plan_dir), ('checkpoint', checkpoint)):
            if not isinstance(value, str) or value.strip() in ('', '???'):
                refuse(f'model.guidance.{name}', value, 'a path', f'Set model.guidance.{name}=<path>.')
        self.plan_dir = plan_dir
        self.engine = check_choice('model.guidance.engine', engine, tuple(ENGINES))
        weights = open_checkpoint(
            checkpoint,
            setting='model.guidance.checkpoint',
            tokenizer=tokenizer,
            unnormalised_kv=None,  # the plan of the UNet holds it
            local_files_only=local_files_only,
        )
        super().__init__(weights=weights, **options)
        if self.score.trains_unet:
            allowed = 'one that trains no adapters inside the UNet, as all but vsd: the weights of a plan are fixed'
            advice = 'Set model/guidance/score=sds, or model/guidance=sd_nemo or sd_huggingface.'
            refuse('model.guidance.score', type(self.score).__name__, allowed, advice)
        if self.latent_options.image_size is not None:
            refuse(
                IMAGE_SIZE, self.latent_options.image_size, 'null with engines: a plan has the size it was built with'
            )
        if self.network_options.attention != 'sdpa':
            allowed = "'sdpa' with engines: a plan has the attention it was built with"
            advice = 'Set model.guidance.networks.attention=sdpa.'
            refuse('model.guidance.networks.attention', self.network_options.attention, allowed, advice)
        if self.network_options.fp8:
            refuse(FP8, True, 'false with engines: a plan has the precision it was built with', f'Set {FP8}=false.')

    def check_prompts(self, prompts: PromptSet) -> None:
        """Check the texts, and that the engine's package and the plans are there; load none of them."""
        PACKAGES[self.engine]()
        read_plans(self.plan_dir, self.engine)
        super().check_prompts(prompts)

    def say_memory(self, device: torch.device | str, *, images: int, scene: int) -> None:
        """Say nothing: what an engine takes is known to the engine alone."""

    def prepare(self, prompts: PromptSet, device: torch.device | str) -> None:
        if self._prepared_for is None:
            PACKAGES[self.engine]()
            self.plans = read_plans(self.plan_dir, self.engine)
            self.plans.check_built_from(self.weights, 'model.guidance.checkpoint')
        super().prepare(prompts, device)

    def _encode_texts(self, texts: Sequence[str], dtype: torch.dtype, device: torch.device) -> Tensor:
        encoder = EngineTextEncoder(self.plans.open('clip', device), length=self.plans.conf['unet']['context'][1])
        return encode_tokens(tokenize(self.weights.tokenizer(), texts), encoder, device)

    def _load_noise_predictor(self, dtype: torch.dtype, device: torch.device) -> EngineNoisePredictor:
        return EngineNoisePredictor(self.plans.open('unet', device))


class EngineNoisePredictor:
    """A UNet's plan: x [N, C, h, w], t [N], context [N, L, D] -> output [N, C, h, w], cast to the plan's own types."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.channels, *sides = runner.inputs['x'].sizes
        self.latent_size = max(sides)

    def __call__(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return self.runner(self.runner.cast({'x': x, 't': t, 'context': context}))['logits']


class EngineTextEncoder:
    """A text encoder's plan: tokens [n, L] -> embeddings [n, length, D], padded with zeros where the UNet takes more."""

    def __init__(self, runner: Runner, length: int) -> None:
        self.runner, self.length = runner, length

    def __call__(self, tokens: Tensor) -> Tensor:
        rows = [self.runner(self.runner.cast({'tokens': row}))['logits'] for row in tokens.split(1)]
        embeddings = torch.cat(rows)
        return nn.functional.pad(embeddings, (0, 0, 0, self.length - embeddings.shape[1]))
