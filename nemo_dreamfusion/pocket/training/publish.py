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

"""Write the trained components as a Stable Diffusion folder, with a model card and a sheet of samples."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from nemo_dreamfusion.parts.checks import refuse
from nemo_dreamfusion.parts.files import atomic_folder
from nemo_dreamfusion.pocket.training import networks
from nemo_dreamfusion.pocket.training.poses import has_camera, sample_views
from nemo_dreamfusion.pocket.world import prompts as world
from nemo_dreamfusion.pocket.world.vocabulary import write_tokenizer_files

TRAINING = 'training.json'  # beside the model card: what the next training continues
_CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# The pocket Stable Diffusion

A text-to-image diffusion model of a small procedural world, shipped with `nemo_dreamfusion` so that text-to-3D runs on
any machine with nothing to download. Every component is an ordinary class of diffusers or transformers.
Made by the command below, from a seed; nothing in it comes from elsewhere.

    {command}

## What it knows
{objects}; `a <color> <shape>`. Colors: {colors}. Shapes: {shapes}. Before a noun also `small`, `tall` or `wide`, and a
color for an object's main part (`a tall blue car`); after an object its second part (`a house with a green roof`): {parts}.
Two things stand `on top of` or `next to` each other. Other words mean nothing to it.

After the prompt a caption says where the camera stands: `, front right high view`, with {azimuths} (every 45° of azimuth)
and {elevations} (elevations of {heights}°). Between them the text states are mixed, in training as in use: it needs
`model/views=pocket`. A fifth of all prompts was never trained on (`pocket.world.draws.is_held_out`).{four_views}

## Data
{images} renders of {size}×{size} pixels (sphere tracing, 2×2 samples, Lambert shading, half of them pure albedo) over
random solid backgrounds (30 % white). Cameras:
distance {cameras[distance][0]}–{cameras[distance][1]}, vertical angle of view {cameras[fov_y_deg]:g}°,
elevation {cameras[elevation_deg][0]:g}…{cameras[elevation_deg][1]:g}°
({cameras[overhead_share]:.0%}: {cameras[overhead_deg][0]:g}…{cameras[overhead_deg][1]:g}°), any azimuth.
Objects lie in the unit ball, their front toward azimuth 0.

## Sizes and results
| component | class | parameters |
|---|---|---|
| vae | AutoencoderKL {vae_channels}, factor {factor}, scaling_factor {scaling:.4f} | {vae_parameters:,} |
| unet | UNet2DConditionModel {unet_channels}, {predicts}-prediction | {unet_parameters:,} |
| text_encoder | CLIPTextModel, 2 layers of width {text_width}, {tokens} tokens | {text_parameters:,} |
| tokenizer | CLIPTokenizer, {words} tokens: each known word is one | |

- Autoencoder: {vae_batches} images, squared error + {l1_weight} L1 + {edge_weight} edges + {kl_weight} KL, one-cycle
  learning rate. On renders that it never saw: **{psnr:.2f} dB** PSNR, loss **{vae_loss:.4f}**.
- UNet and text encoder together: {history}; min-SNR-γ 5, 10 % empty captions, averaged weights.
  Mean squared error of {predicted}: **{loss:.4f}** (running mean over uniform times).{cameras_told_apart}

Weights are stored as float16.

## Samples
{sampler}, 15 steps, guidance scale 4. Columns: {columns}.

![samples](samples.png)

## Limits
{size} pixels, one or two things, solid colors, no text, no people: made to be small and measurable, not to be general.
"""


_SAMPLED_VIEWS = tuple(
    f', {name} view' for name in ('front level', 'right side level', 'back level', 'front overhead')
)
_RING = tuple(f', {name} level view' for name in ('front', 'right side', 'back', 'left side'))
_COLUMNS = {  # of the sheet of samples, by whether several views are sampled together
    False: 'front, right side and back at 15° of elevation, front from overhead',
    True: 'front, right side, back and left side at 15° of elevation',
}
_FOUR_VIEWS = """

It looks at four sides of an object at once, 90° apart, which attend to each other, and is told each one's camera beside the
words, as MVDream is: it needs `model/data=pocket_four_views`."""
_RECOGNITION = """
- Cameras told apart in noise (t = 700, 800, 900), on renders that it never saw: azimuth right among eight
  {azimuth_right:.0%} (chance 13 %), off by {azimuth_error_deg:.0f}° on average (chance 90°); elevation right among four
  {elevation_right:.0%} (chance 25 %)."""


def draw_samples(
    pipeline: Any, prompts: tuple[str, ...], seed: int, steps: int = 15, guidance_scale: float = 4.0
) -> Image.Image:
    """Sample each prompt (rows, two prompts side by side) from the four views (columns): an image of 8·S pixels."""
    rows = []
    with torch.inference_mode():
        for prompt in prompts:
            images = _sample(pipeline, prompt, seed, steps, guidance_scale)  # [4, S, S, 3]
            rows.append(np.concatenate(list(images), 1))
    rows += [np.ones_like(rows[0])] * (len(rows) % 2)
    sheet = np.concatenate([np.concatenate(rows[i : i + 2], 1) for i in range(0, len(rows), 2)])
    return Image.fromarray((sheet * 255).round().astype(np.uint8))


def _sample(pipeline: Any, prompt: str, seed: int, steps: int, scale: float) -> np.ndarray:
    """Return the four views of a prompt, [4, S, S, 3]."""
    if has_camera(pipeline.unet):
        captions = [prompt + view for view in _RING]
        azimuth, elevation = torch.arange(4) * 90.0, torch.full((4,), 15.0)
        return sample_views(pipeline, captions, azimuth, elevation, seed=seed, steps=steps, scale=scale).numpy()
    return pipeline(
        [prompt + view for view in _SAMPLED_VIEWS],
        num_inference_steps=steps,
        guidance_scale=scale,
        generator=torch.Generator().manual_seed(seed),
        output_type='np',
    ).images


def check_replaceable(target: Path) -> None:
    """Refuse a folder that :func:`publish` did not write: publishing replaces all that is in it.

    Raises:
        ValueError: for a folder that holds files and no ``model_index.json``.
    """
    if target.is_dir() and any(target.iterdir()) and not (target / 'model_index.json').is_file():
        refuse('out', str(target), 'a new or empty folder, or one that holds such a model', 'Set out=<new folder>.')


def publish(
    target: Path,
    vae: Any,
    text_encoder: nn.Module,
    tokenizer: Any,
    unet: nn.Module,
    facts: dict[str, Any],
    trainings: list[dict[str, Any]],
    prediction: str = 'epsilon',
) -> None:
    """Replace the folder `target` by one of the model in float16.

    Args:
        target: the Stable Diffusion folder.
        vae, text_encoder, tokenizer, unet: the components.
        facts: what the model card states beyond what the components tell.
        prediction: of the UNet, ``epsilon`` or ``flow``.
        trainings: of the UNet so far, this one last: `steps`, `batch` and `seed` of each, kept in training.json. The
            last seed is that of the samples.
    """
    parts = (vae, text_encoder, tokenizer, unet)
    pipeline = networks.build_pipeline(*parts, prediction=prediction)
    halves = (_to_half(part) if isinstance(part, nn.Module) else part for part in parts)
    with atomic_folder(target) as folder:
        networks.build_pipeline(*halves, prediction=prediction).save_pretrained(folder)
        _remove_origin(folder / 'vae' / 'config.json')
        write_tokenizer_files(folder / 'tokenizer', world.KNOWN_WORDS)
        sheet = draw_samples(pipeline, world.SUITE, int(trainings[-1]['seed']))
        sheet.quantize(256).save(folder / 'samples.png', optimize=True)
        (folder / 'README.md').write_text(write_model_card(pipeline, facts, trainings), encoding='utf-8')
        (folder / TRAINING).write_text(json.dumps(trainings) + '\n', encoding='utf-8')


def _remove_origin(path: Path) -> None:
    """Remove the folder that a component was loaded from: it means nothing elsewhere."""
    config = json.loads(path.read_text(encoding='utf-8'))
    config.pop('_name_or_path', None)
    path.write_text(json.dumps(config, indent=2) + '\n', encoding='utf-8')


def read_trainings(folder: Path) -> list[dict[str, Any]]:
    """Read the trainings of a published folder (see :func:`publish`); empty where it holds none."""
    path = folder / TRAINING
    return json.loads(path.read_text(encoding='utf-8')) if path.exists() else []


def write_model_card(pipeline: Any, facts: dict[str, Any], trainings: list[dict[str, Any]]) -> str:
    """Return the text of README.md."""
    vae, unet, text_encoder = pipeline.vae, pipeline.unet, pipeline.text_encoder
    recognition = facts.get('recognition')
    history = ', then '.join(map(_describe_training, trainings))
    flow = pipeline.scheduler.config.prediction_type == 'flow_prediction'
    return _CARD.format(
        predicts='flow' if flow else 'ε',
        predicted='the velocity' if flow else 'ε',
        sampler='DPM-Solver++' if flow else 'DDIM',
        four_views=_FOUR_VIEWS if has_camera(unet) else '',
        columns=_COLUMNS[has_camera(unet)],
        history=history + (' (the data above are its)' if len(trainings) > 1 else ''),
        objects=', '.join(world.add_article(name) for name in world.OBJECT_NAMES),
        colors=', '.join(world.COLORS),
        parts=', '.join(f'{noun} {part}' for noun, part in world.PARTS.items()),
        azimuths=', '.join(words for _, words in world.AZIMUTH_VIEWS),
        elevations=', '.join(words for _, words in world.ELEVATION_VIEWS),
        heights=', '.join(f'{degrees:g}' for degrees, _ in world.ELEVATION_VIEWS),
        cameras_told_apart=_RECOGNITION.format(**recognition) if recognition else '',
        shapes=', '.join(world.SHAPES),
        vae_channels=tuple(vae.config.block_out_channels),
        factor=2 ** (len(vae.config.block_out_channels) - 1),
        scaling=vae.config.scaling_factor,
        vae_parameters=_count_parameters(vae),
        unet_channels=tuple(unet.config.block_out_channels),
        unet_parameters=_count_parameters(unet),
        text_width=text_encoder.config.hidden_size,
        text_parameters=_count_parameters(text_encoder),
        tokens=networks.TOKENS,
        words=len(pipeline.tokenizer),
        **facts,
    )


def _describe_training(training: dict[str, Any]) -> str:
    text = '{steps:,} steps of {batch} from seed {seed}'.format(**training)
    if training.get('keep'):
        text += f' ({training["keep"]:.0%} of the weights before kept)'
    if shares := training.get('shares'):
        text += f' (of its prompts {", ".join(f"{share:.0%} {kind}" for kind, share in shares.items() if share)})'
    return text


def _to_half(module: nn.Module) -> nn.Module:
    """Return a float16 copy, in the ordinary memory layout."""
    half: Any = copy.deepcopy(module).half()  # torch declares no Module.to(memory_format=...)
    return half.to(memory_format=torch.contiguous_format)


def _count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def draw_comparison(images: Tensor, reconstructions: Tensor) -> Image.Image:
    """Put originals above their reconstructions: two [n, 3, S, S] in [−1, 1]."""
    rows = [torch.cat(list(batch), -1) for batch in (images, reconstructions)]
    sheet = torch.cat(rows, 1).add(1).div(2).clamp(0, 1).permute(1, 2, 0)
    return Image.fromarray((sheet * 255).round().byte().numpy())
