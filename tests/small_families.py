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

"""Models of the other families: true architectures with random weights, small enough to build in a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from small_diffusion import DDIM, VAE, WORDS, write_json, write_tokenizer

LENGTH = 77
CLIP = {'intermediate_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 2, 'max_position_embeddings': LENGTH}
FLOW = {'_class_name': 'FlowMatchEulerDiscreteScheduler', 'num_train_timesteps': 1000, 'shift': 3.0}
DDIM_OF_SDXL = {
    **DDIM,
    'prediction_type': 'epsilon',
    'clip_sample': False,
    'set_alpha_to_one': False,
    'steps_offset': 1,
}
WIDE = {'latent_channels': 16, 'use_quant_conv': False, 'use_post_quant_conv': False}


def write_clip(folder: Path, part: str, tokenizer: str, *, width: int, kind: str = 'CLIPTextModel', **sizes) -> None:
    """A CLIP text encoder and its tokenizer."""
    import transformers

    write_tokenizer(folder / tokenizer, LENGTH, closed=False)
    own = transformers.CLIPTokenizer.from_pretrained(folder / tokenizer)
    ids = {name: getattr(own, name) for name in ('bos_token_id', 'eos_token_id', 'pad_token_id')}
    config = transformers.CLIPTextConfig(vocab_size=len(own), hidden_size=width, **CLIP, **ids, **sizes)
    getattr(transformers, kind)(config).save_pretrained(folder / part)


def write_words(folder: Path, *, chat: bool = False) -> int:
    """A tokenizer of words, such as a language model may have, and with ``chat`` its template; returns its size."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {word: i for i, word in enumerate(['<pad>', '</s>', '<unk>', '<user>', '<end>', *WORDS])}
    words = Tokenizer(models.WordLevel(vocab, unk_token='<unk>'))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token='<pad>', eos_token='</s>', unk_token='<unk>')
    if chat:
        tokenizer.chat_template = "{% for m in messages %}<user> {{ m['content'] }} <end> {% endfor %}"
    tokenizer.save_pretrained(folder)
    return len(vocab)


def build_sdxl(folder: Path, *, length: int = LENGTH) -> Path:
    """Stable Diffusion XL: 32-pixel images, a factor-4 VAE, 8x8 latents."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.manual_seed(0)
    write_clip(folder, 'text_encoder', 'tokenizer', width=16)
    second = {'kind': 'CLIPTextModelWithProjection', 'projection_dim': 24, 'hidden_act': 'gelu'}
    write_clip(folder, 'text_encoder_2', 'tokenizer_2', width=24, **second)
    UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D'),
        up_block_types=('CrossAttnUpBlock2D', 'UpBlock2D'),
        cross_attention_dim=40,
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        norm_num_groups=8,
        addition_embed_type='text_time',
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 6 * 8,
    ).save_pretrained(folder / 'unet')
    AutoencoderKL(**VAE, scaling_factor=0.13025).save_pretrained(folder / 'vae')
    write_json(folder / 'scheduler' / 'scheduler_config.json', DDIM_OF_SDXL)
    write_index(folder, 'StableDiffusionXLPipeline', force_zeros_for_empty_prompt=True)
    return folder


def build_sd3(folder: Path) -> Path:
    """Stable Diffusion 3: 32-pixel images, a factor-4 VAE of 16 channels, 8x8 latents, T5."""
    from diffusers import AutoencoderKL, SD3Transformer2DModel
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    for i, width in (('', 16), ('_2', 24)):
        kind = {'kind': 'CLIPTextModelWithProjection', 'projection_dim': width}
        write_clip(folder, f'text_encoder{i}', f'tokenizer{i}', width=width, **kind)
    words = write_words(folder / 'tokenizer_3')
    T5EncoderModel(T5Config(vocab_size=words, d_model=48, d_kv=8, d_ff=32, num_layers=1, num_heads=2)).save_pretrained(
        folder / 'text_encoder_3'
    )
    SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=48,
        caption_projection_dim=32,
        pooled_projection_dim=40,
        pos_embed_max_size=12,
        dual_attention_layers=(0,),
        qk_norm='rms_norm',
    ).save_pretrained(folder / 'transformer')
    AutoencoderKL(**VAE, **WIDE, scaling_factor=1.5305, shift_factor=0.0609).save_pretrained(folder / 'vae')
    write_json(folder / 'scheduler' / 'scheduler_config.json', FLOW)
    write_index(folder, 'StableDiffusion3Pipeline')
    return folder


def write_qwen(folder: Path, layers: int) -> int:
    """A Qwen3 language model and its tokenizer; returns its width."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    words = write_words(folder / 'tokenizer', chat=True)
    sizes = {
        'hidden_size': 16,
        'intermediate_size': 16,
        'num_attention_heads': 2,
        'num_key_value_heads': 1,
        'head_dim': 8,
    }
    Qwen3ForCausalLM(Qwen3Config(vocab_size=words, num_hidden_layers=layers, **sizes)).save_pretrained(
        folder / 'text_encoder'
    )
    return 16


def build_flux2_klein(folder: Path) -> Path:
    """FLUX.2 klein: a factor-4 VAE of 4 channels, patches of 2 x 2; no file says how large its images are."""
    from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel

    torch.manual_seed(0)
    width = write_qwen(folder, layers=28)
    Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * width,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        patch_size=1,
        guidance_embeds=False,
    ).save_pretrained(folder / 'transformer')
    vae = AutoencoderKLFlux2(**VAE, latent_channels=4)
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2.0)
    vae.save_pretrained(folder / 'vae')
    write_json(folder / 'scheduler' / 'scheduler_config.json', {**FLOW, 'use_dynamic_shifting': True})
    write_index(folder, 'Flux2KleinPipeline', is_distilled=False)
    return folder


def build_z_image(folder: Path) -> Path:
    """Z-Image: a factor-4 VAE of 16 channels; no file says how large its images are."""
    from diffusers import AutoencoderKL, ZImageTransformer2DModel

    torch.manual_seed(0)
    width = write_qwen(folder, layers=2)
    transformer = ZImageTransformer2DModel(
        in_channels=16,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=width,
        axes_dims=[4, 6, 6],
        axes_lens=[600, 32, 32],
    )
    for token in (transformer.x_pad_token, transformer.cap_pad_token):
        token.data.normal_()
    transformer.save_pretrained(folder / 'transformer')
    AutoencoderKL(**VAE, **WIDE, scaling_factor=0.3611, shift_factor=0.1159).save_pretrained(folder / 'vae')
    write_json(folder / 'scheduler' / 'scheduler_config.json', FLOW)
    write_index(folder, 'ZImagePipeline')
    return folder


def write_index(folder: Path, pipeline: str, **settings) -> None:
    """``model_index.json``, with the class of each part as it was saved."""
    index: dict[str, Any] = {'_class_name': pipeline, **settings}
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        for name in ('config.json', 'scheduler_config.json', 'tokenizer_config.json'):
            if (part / name).is_file():
                config = json.loads((part / name).read_text())
                kind = config.get('_class_name') or config.get('tokenizer_class') or config['architectures'][0]
                library = 'diffusers' if '_class_name' in config else 'transformers'
                index[part.name] = [library, kind]
    write_json(folder / 'model_index.json', index)
