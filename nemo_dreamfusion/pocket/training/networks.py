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

"""Build the five components of the pocket Stable Diffusion (the one file of `pocket` that imports diffusers)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nemo_dreamfusion.checkpoints.attention import multi_view_attention
from nemo_dreamfusion.checkpoints.configurations import CAMERA_NUMBERS
from nemo_dreamfusion.modules.guidance.diffusion import NoiseSchedule
from nemo_dreamfusion.parts.checks import refuse
from nemo_dreamfusion.pocket.world.vocabulary import write_tokenizer_files

TOKENS = (
    24  # longest caption: `a small red ice cream cone next to` another, `, front right high view`, start and end: 21
)


def build_vae(channels: Sequence[int], sample_size: int, norm_groups: int) -> Any:
    """Build an AutoencoderKL with 4 latent channels that halves the sides once per further entry of `channels`."""
    from diffusers import AutoencoderKL

    levels = len(channels)
    return AutoencoderKL(
        block_out_channels=tuple(channels),
        down_block_types=('DownEncoderBlock2D',) * levels,
        up_block_types=('UpDecoderBlock2D',) * levels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=norm_groups,
        mid_block_add_attention=False,
        sample_size=sample_size,
    )


def build_tokenizer(words: Sequence[str]) -> Any:
    """Build a CLIPTokenizer in which each of the words is one token."""
    from transformers import CLIPTokenizer

    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer_files(Path(folder), words)
        return CLIPTokenizer(vocab=f'{folder}/vocab.json', merges=f'{folder}/merges.txt', model_max_length=TOKENS)


def build_text_encoder(tokenizer: Any, width: int) -> nn.Module:
    """Build a CLIPTextModel of two layers."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def adopt_text_encoder(encoder: nn.Module, tokenizer: Any, before: nn.Module, tokenizer_before: Any) -> None:
    """Take a published encoder's weights for another vocabulary: known tokens and positions keep theirs, in place."""
    state, old = encoder.state_dict(), before.state_dict()
    known = tokenizer_before.get_vocab()
    pairs = [(i, known[token]) for token, i in tokenizer.get_vocab().items() if token in known]
    rows, rows_before = (list(column) for column in zip(*pairs, strict=True))
    for name, value in state.items():
        if name.endswith('token_embedding.weight'):
            value[rows] = old[name][rows_before].to(value)
        elif name.endswith('position_embedding.weight'):
            count = min(len(value), len(old[name]))
            value[:count] = old[name][:count].to(value)
        elif not name.endswith('position_ids'):
            value.copy_(old[name])
    encoder.load_state_dict(state)


def build_unet(channels: Sequence[int], sample_size: int, text_width: int, views: int = 1) -> Any:
    """Build a UNet2DConditionModel of three levels, the coarser two with attention, as in SDXL: a third cheaper on a CPU.

    With several ``views`` it is MVDream's (https://arxiv.org/abs/2308.16512, section 3.1): the camera is embedded beside
    the time, by a last layer that is zero at first, and the views of an object attend to each other.
    """
    from diffusers import UNet2DConditionModel

    camera = {'class_embed_type': 'projection', 'projection_class_embeddings_input_dim': CAMERA_NUMBERS}
    unet: Any = UNet2DConditionModel(
        sample_size=sample_size,
        block_out_channels=tuple(channels),
        layers_per_block=1,
        down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D'),
        up_block_types=('CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D'),
        cross_attention_dim=text_width,
        attention_head_dim=4,  # the number of heads: diffusers keeps this name for SD 1's sake
        norm_num_groups=16,
        **(camera if views > 1 else {}),
    )
    if views > 1:
        nn.init.zeros_(unet.class_embedding.linear_2.weight)
        nn.init.zeros_(unet.class_embedding.linear_2.bias)
        unet.set_attn_processor(multi_view_attention(views))
    return unet


def adopt_unet(unet: nn.Module, before: nn.Module) -> None:
    """Take a published UNet's weights, in place. One of a single view knows no camera: that embedding stays as it is."""
    missing, unexpected = unet.load_state_dict(before.state_dict(), strict=False)
    if unexpected or any(not name.startswith('class_embedding.') for name in missing):
        refuse(
            'start_from',
            'a UNet of another shape',
            'one of these sizes',
            f'It differs in {(missing + unexpected)[0]}.',
        )


def build_scheduler(prediction: str = 'epsilon') -> Any:
    """Build Stable Diffusion's noise schedule with ε-prediction, or for ``flow`` that of a rectified flow."""
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    if prediction == 'flow':  # FlowMatchEuler's own is none of StableDiffusionPipeline's
        return DPMSolverMultistepScheduler(prediction_type='flow_prediction', use_flow_sigmas=True, flow_shift=1.0)
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule='scaled_linear',
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def tokenize(tokenizer: Any, captions: Sequence[str]) -> Tensor:
    """Return padded token ids: n captions → [n, T], T being the tokenizer's longest (16 in the first published weights)."""
    return tokenizer(
        list(captions),
        padding='max_length',
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors='pt',
    ).input_ids


def load_vae(folder: Path) -> Any:
    """Load the autoencoder of a Stable Diffusion folder, in float32."""
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(folder, subfolder='vae', dtype=torch.float32).eval()


def build_schedule(prediction: str = 'epsilon') -> NoiseSchedule:
    """Return the noise schedule of :func:`build_scheduler` as guidance reads it."""
    scheduler = build_scheduler(prediction)
    if prediction == 'flow':
        config = {**scheduler.config, '_class_name': type(scheduler).__name__}
        return NoiseSchedule.from_config(config)
    return NoiseSchedule.from_abar(scheduler.alphas_cumprod)


def build_pipeline(
    vae: Any, text_encoder: nn.Module, tokenizer: Any, unet: nn.Module, *, prediction: str = 'epsilon'
) -> Any:
    """Join the components to a StableDiffusionPipeline, which samples and saves the folder with its model_index.json."""
    from diffusers import StableDiffusionPipeline

    made: Any = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(prediction),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


def load_pipeline(folder: Path) -> Any:
    """Load a folder as a StableDiffusionPipeline in float32."""
    from diffusers import StableDiffusionPipeline

    made: Any = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    made.set_progress_bar_config(disable=True)
    return made
