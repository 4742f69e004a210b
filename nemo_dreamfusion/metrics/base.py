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

"""The contracts: a metric draws an object and scores its pictures; an encoder and a scorer know the published model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nemo_dreamfusion.parts.checks import refuse

OVERVIEW = 'overview.png'  # of an object's pictures, for the report


@dataclass(frozen=True)
class Column:
    """A value of the report: what it is, and whether it is a share, written in percent."""

    meaning: str
    share: bool = False


@dataclass(frozen=True)
class Judged:
    """What a metric said of one object.

    values: by column, such as ``{'colour': 0.75}``; the report has their mean over the prompts, with its interval.
    remark: a few words for the report, such as what the object was taken for.
    details: whatever else is worth keeping, as JSON has it.
    """

    values: dict[str, float]
    remark: str = ''
    details: Mapping[str, Any] | None = None


class Judge:
    """A published model that says how well pictures and texts fit.

    Attributes:
        name: short, of the stage's folder and the report's row.
    """

    name: str

    def check(self) -> None:
        """Refuse what cannot be loaded, before any work; only a machine that scores is asked.

        Raises:
            ValueError: naming the setting.
        """

    def describe(self) -> dict[str, Any]:
        """Return what the scores depend on, as JSON has it: the model, the checksum of its weights, ..."""
        raise NotImplementedError

    def prepare(self, device: torch.device) -> None:
        """Load the weights."""
        raise NotImplementedError

    def close(self) -> None:
        """Free what :meth:`prepare` took."""


class ImageTextEncoder(Judge):
    """Puts pictures and texts into one space, in which the cosine says how well they fit."""

    def encode_images(self, images: np.ndarray) -> Tensor:
        """Return unit vectors of pictures: uint8 [N, H, W, 3] -> [N, D]."""
        raise NotImplementedError

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors of N texts: [N, D]."""
        raise NotImplementedError


class ImageScorer(Judge):
    """Says how good pictures are as pictures of a text."""

    def score(self, prompt: str, files: Sequence[Path]) -> list[float]:
        """Return one number for each picture, the larger the better."""
        raise NotImplementedError


class Metric:
    """Draws finished objects, and scores what it drew; both may happen on different machines.

    Attributes:
        name: of the metric, as its YAML is called.
        columns: the values that the report has.
    """

    name: str
    columns: Mapping[str, Column]

    @property
    def judge(self) -> Judge:
        """Return the encoder or scorer."""
        raise NotImplementedError

    def render_settings(self) -> dict[str, Any]:
        """Return what the pictures depend on, as JSON has it."""
        raise NotImplementedError

    def score_settings(self) -> dict[str, Any]:
        """Return what the scores depend on beside pictures and judge: what all judges of a folder share, as JSON has it."""
        raise NotImplementedError

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Refuse prompts that cannot be judged; the default takes all.

        Raises:
            ValueError: naming the prompt.
        """

    def notes(self) -> list[str]:
        """Return sentences that the report begins with: how to read it, and how it differs from what was published."""
        return []

    def render(self, model: Any, folder: Path) -> dict[str, Any]:
        """Write the pictures of a model into a folder, and ``OVERVIEW``; return what the record says of them."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Load what :meth:`score` needs."""
        raise NotImplementedError

    def score(self, prompt: str, folder: Path, record: Mapping[str, Any]) -> Judged:
        """Score the pictures of a folder, given what :meth:`render` returned."""
        raise NotImplementedError

    def close(self) -> None:
        """Free what :meth:`prepare` took."""

    def published(self) -> list[str]:
        """Return lines of the report on what others reached; none where nothing can be compared."""
        return []


def choose_device(name: str, value: str) -> torch.device:
    """Return a device by its name; ``auto`` is the GPU where there is one.

    Raises:
        ValueError: for a name that torch does not know, or a GPU that is not there.
    """
    if value == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        torch.empty(1, device=value)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        refuse(name, value, 'auto, cpu, cuda or cuda:<number> of this machine', f'torch says: {first}')
    return torch.device(value)


def read_pictures(files: Sequence[Path]) -> np.ndarray:
    """Read pictures of one size: uint8 [N, H, W, 3].

    Raises:
        ValueError: when one is missing or damaged.
    """
    pictures = []
    for file in files:
        try:
            with Image.open(file) as image:
                pictures.append(np.asarray(image.convert('RGB')))
        except (OSError, SyntaxError) as error:
            raise ValueError(
                f'{file} cannot be read ({error}): remove its folder, and stage render makes it anew.'
            ) from error
    return np.stack(pictures)
