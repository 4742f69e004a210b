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
"""A CLIP of random weights, and an encoder and a scorer whose answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from small_diffusion import write_tokenizer

from nemo_dreamfusion.metrics.base import ImageScorer, ImageTextEncoder

SIZE, LENGTH = 32, 24  # pixels of a side; tokens
COLOURS = {'red': (1, 0, 0), 'green': (0, 1, 0), 'blue': (0, 0, 1), 'yellow': (1, 1, 0), 'grey': (0.5, 0.5, 0.5)}


def build_clip(folder: Path) -> Path:
    """Write the folder of a CLIP with two layers in each tower, as transformers does."""
    from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel

    write_tokenizer(folder, LENGTH, closed=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tower = {'hidden_size': 32, 'intermediate_size': 64, 'num_hidden_layers': 2, 'num_attention_heads': 2}
    ends = {'bos_token_id': tokenizer.bos_token_id, 'eos_token_id': tokenizer.eos_token_id}
    text = {**tower, **ends, 'vocab_size': len(tokenizer), 'max_position_embeddings': LENGTH}
    text['pad_token_id'] = tokenizer.pad_token_id
    config = CLIPConfig(
        text_config=text, vision_config={**tower, 'image_size': SIZE, 'patch_size': 8}, projection_dim=16
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(config).eval().save_pretrained(folder)
    side = {'height': SIZE, 'width': SIZE}
    CLIPImageProcessorPil(size={'shortest_edge': SIZE}, crop_size=side).save_pretrained(folder)
    return folder


class ColourOracle(ImageTextEncoder):
    """Knows the colours: a text is the colour that it names, a picture that of its middle; the cosine of the same is 1."""

    def __init__(self, *, name: str = 'oracle', shift: int = 0) -> None:
        self.name, self.shift = name, shift  # shift: it takes each colour for another

    def describe(self):
        return {'encoder': self.name, 'shift': self.shift}

    def prepare(self, device):
        pass

    def encode_images(self, images: np.ndarray) -> torch.Tensor:
        size = images.shape[1]
        middle = images[:, size // 2, size // 2, None].astype(float) / 255
        nearest = np.linalg.norm(middle - np.array(list(COLOURS.values())), axis=-1).argmin(-1)
        return F.one_hot(torch.from_numpy((nearest + self.shift) % len(COLOURS)), len(COLOURS)).float()

    def encode_texts(self, texts) -> torch.Tensor:
        named = [[colour in text.strip('.').split() for colour in COLOURS] for text in texts]
        return F.normalize(torch.tensor(named).float(), dim=-1)


class BrightnessScorer(ImageScorer):
    """A picture's score is its mean, from 0 to 1."""

    def __init__(self, *, name: str = 'brightness') -> None:
        self.name = name

    def describe(self):
        return {'scorer': self.name}

    def prepare(self, device):
        pass

    def score(self, prompt, files):
        return [float(np.asarray(Image.open(file)).mean() / 255) for file in files]
