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


"""What every guidance is: something that says how the picture should change to look more like the prompt."""

from __future__ import annotations

from typing import Any

import torch

from nemo_dreamfusion.parts.types import CameraBatch, GuidanceOutput, PromptSet, RenderOutput


class Guidance:
    """A frozen judge of renders. The node ``model.guidance``.

    The constructor is light: it only checks its options. :meth:`check_prompts` loads a tokenizer at most,
    :meth:`prepare` loads the weights, moves them to the device and encodes the prompts, once.

    It is no ``nn.Module``, so that its networks are in no checkpoint, no optimizer and no DDP bucket of the model that it
    guides; what it must keep between runs goes through :meth:`training_state`.
    """

    @property
    def image_size(self) -> int:
        """Side of the square image that the guidance looks at, pixels. Known after :meth:`prepare`."""
        raise NotImplementedError

    @property
    def latent_size(self) -> int:
        """Side of its latents. Known after :meth:`prepare`."""
        raise NotImplementedError

    def needs_normals(self, *, latent: bool) -> bool:
        """Return whether :meth:`loss` reads ``render.normals``, in the latent phase or outside of it."""
        return False

    def check_prompts(self, prompts: PromptSet) -> None:
        """Raise ValueError when the guidance cannot read these texts. Load no weights."""

    def prepare(self, prompts: PromptSet, device: torch.device | str) -> None:
        """Load the weights to ``device`` and encode each text once. A second call with the same arguments does nothing."""
        raise NotImplementedError

    def say_memory(self, device: torch.device | str, *, images: int, scene: int) -> None:
        """Say what the guidance will take of the device's memory, before :meth:`prepare`. Load no weights.

        Args:
            device: where it will be.
            images: of a step.
            scene: bytes that the scene and its optimizer take beside it.
        """

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
        """Return a loss whose gradient moves the render toward the prompt.

        Args:
            render: B square images.
            cameras: the B cameras they were rendered from; they choose the view's text, and a score that
                learns (VSD) reads their poses.
            step: training step, counted from 0; for a guidance whose schedule counts steps (those here read ``progress``).
            progress: share of the run that is done, 0 to 1; the schedules read it.
            latent: take the render for a latent (the latent phase) instead of encoding its image.
            generator: the only source of random numbers.
            source: of an edit, what the same cameras see of the object before it; given where the prompts have a source.
        """
        raise NotImplementedError

    def compare_words(
        self, render: RenderOutput, cameras: CameraBatch, *, share: float, generator: torch.Generator
    ) -> torch.Tensor:
        """Return how the noise predicted under the prompt differs from that under its source: [B, C, h, w].

        Args:
            render: B square images of the object before an edit.
            cameras: the B cameras they were rendered from.
            share: time of the diffusion, 0 to 1 of its length.
            generator: the only source of random numbers.
        """
        raise NotImplementedError(f'{type(self).__name__} compares no words: set model.edit.find_region=false.')

    def training_state(self) -> dict[str, Any]:
        """Return what a resumed run needs (tensors, numbers, dicts and lists of them); empty when nothing is trained."""
        return {}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`training_state` returned, before or after :meth:`prepare`."""
