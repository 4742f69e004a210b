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

"""A NeMo Stable Diffusion archive as the same diffusers components that a diffusers folder gives."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nemo_dreamfusion.checkpoints import nemo_config, nemo_keys, nemo_text
from nemo_dreamfusion.checkpoints.models import build_empty, build_model, take_unnormalised_keys_and_values
from nemo_dreamfusion.checkpoints.nemo_archive import NemoArchive, read_archive
from nemo_dreamfusion.checkpoints.nemo_configurations import check_archive_config
from nemo_dreamfusion.checkpoints.single_file import refuse_file
from nemo_dreamfusion.checkpoints.tokenizers import fit_to_encoder, load_tokenizer
from nemo_dreamfusion.parts.checks import refuse

logger = logging.getLogger(__name__)
_UNNORMALISED = (
    'This archive has the layout of NeMo v1.23, whose self-attention took keys and values from un-normalised input. '
    'Weights that v1.23 itself trained or fine-tuned need unnormalised_kv=true; weights that were only converted to it '
    'need unnormalised_kv=false (the default, plain Stable Diffusion).'
)
_BEFORE_OR_AFTER = ('2023-10', 'v2')  # vintages whose self-attention took all from normalised input


def check_nemo_path(setting: str, path: Any) -> None:
    """Refuse what does not end in ``.nemo``; of a folder or of another file say what it is and which setting takes it."""
    if isinstance(path, str) and path.endswith('.nemo'):
        return
    if isinstance(path, str) and Path(path).expanduser().is_file():
        refuse_file(Path(path).expanduser(), setting, wants_nemo=True)
    advice = 'Set model/guidance=sd_huggingface and model.guidance.source to a folder in diffusers format or a hub id.'
    refuse(setting, path, 'the path of a .nemo archive of a NeMo Stable Diffusion', advice)


class NemoCheckpoint:
    """A ``.nemo`` file of any vintage: UNet, VAE, FrozenCLIP, Megatron-CLIP or OpenCLIP text encoder, schedule, scale.

    Args:
        path: the archive.
        tokenizer: folder or hub id of the tokenizer; None takes the archive's own files, or else what it names.
        context_length: tokens to which text embeddings are padded with zeros; ``auto`` does as NeMo did (77 to 80). An
            archive whose weights were trained elsewhere and only converted may want 77.
        unnormalised_kv: reproduce the self-attention of NeMo v1.23 exactly; refused for the layouts of other releases. An
            archive that this package converted says it itself. None: leave it out and say nothing, where an engine holds it.
        text_heads: attention heads of the text encoder, where the archive does not say and its width does not tell.
        local_files_only: read the hub's cache only.
    """

    def __init__(
        self,
        path: str,
        *,
        tokenizer: str | None = None,
        context_length: int | str | None = 'auto',
        unnormalised_kv: bool | None = False,
        text_heads: int | None = None,
        local_files_only: bool = False,
    ) -> None:
        self.name = str(Path(path).expanduser())
        self.unnormalised_kv, self.text_heads = unnormalised_kv, text_heads
        self.local_files_only = bool(local_files_only)
        self._tokenizer = tokenizer
        self._context_length = context_length
        self._parts: dict[str, dict[str, Tensor]] | None = None
        self._config: dict[str, Any] | None = None
        self._files: dict[str, bytes] = {}

    # --- reading ------------------------------------------------------------------------------------------------------

    @property
    def config(self) -> Mapping[str, Any]:
        """Return ``model_config.yaml``, checked."""
        if self._config is None:
            self._config = self._keep(read_archive(self.name, weights=False))
        return self._config

    @property
    def parts(self) -> Mapping[str, dict[str, Tensor]]:
        """Return the tensors by part. They are held until :meth:`release`."""
        if self._parts is None:
            archive = read_archive(self.name)
            self._keep(archive)
            self._parts = nemo_keys.split_parts(archive.state)
            lacking = [part for part in nemo_keys.PARTS if not self._parts[part]]
            if lacking:
                raise ValueError(
                    f'{self.name!r} holds no tensors of {", ".join(lacking)}: it is not a whole NeMo Stable Diffusion.'
                )
        return self._parts

    def _keep(self, archive: NemoArchive) -> dict[str, Any]:
        """Keep what is read beside the tensors, and return the configuration, checked."""
        check_archive_config(archive.config, self.name)
        self._config, self._files = archive.config, archive.files
        return archive.config

    def release(self) -> None:
        """Free the tensors; the next call reads the file again."""
        self._parts = None

    def files(self, folder: str) -> dict[str, bytes]:
        """Return the members of the archive under a folder, by their name in it."""
        prefix = f'{folder}/'
        return {n.removeprefix(prefix): c for n, c in (self.config and self._files).items() if n.startswith(prefix)}

    # --- Checkpoint ---------------------------------------------------------------------------------------------------

    def check(self) -> None:
        _ = self.config  # reading it checks it

    def tokenizer(self) -> Any:
        tokenizer = self._stored_tokenizer()
        if self._kind() == 'open_clip':
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
        if self._parts is None and nemo_config.SECTION not in self.config:  # a look at the configuration must do
            return fit_to_encoder(
                tokenizer, tokens=nemo_text.count_tokens(self._conditioning()), vocabulary=None, name=self.name
            )
        sizes = self.text_config()
        tokens, vocabulary = sizes['max_position_embeddings'], sizes['vocab_size']
        return fit_to_encoder(tokenizer, tokens=tokens, vocabulary=vocabulary, name=self.name)

    def _stored_tokenizer(self) -> Any:
        """Return the one that was asked for, or the archive's own files, or the one that it names."""
        files = self.files('tokenizer')
        if self._tokenizer is None and files:
            with tempfile.TemporaryDirectory() as folder:
                for name, content in files.items():
                    (Path(folder) / Path(name).name).write_bytes(content)
                return load_tokenizer(folder)
        named = self._conditioning().get('version') if self._kind() == 'clip' else None
        source = self._tokenizer or named or 'openai/clip-vit-large-patch14'
        return load_tokenizer(source, local_files_only=self.local_files_only)

    def _kind(self) -> str:
        return nemo_text.find_kind(self._conditioning().get('_target_', ''))

    def is_openai_clip(self) -> bool:
        return self._kind() == 'clip' and self.text_config()['hidden_act'] == 'quick_gelu'

    def text_tensors(self) -> dict[str, Tensor]:
        """Return the text encoder's tensors under CLIPTextModel's names."""
        return nemo_text.to_clip_names(self.parts['text_encoder'], self._conditioning())

    def _conditioning(self) -> Mapping[str, Any]:
        return nemo_config.section(self.config, 'cond_stage_config')

    def text_config(self) -> dict[str, Any]:
        """Return the arguments of CLIPTextConfig."""
        if nemo_config.SECTION in self.config:
            return dict(self.config[nemo_config.SECTION]['text_encoder'])
        return nemo_text.text_config(self.text_tensors(), self._conditioning(), self.text_heads)

    def build_empty(self, part: str) -> nn.Module:
        """Return the UNet or the text encoder without memory for its tensors."""
        if part == 'unet':
            return build_empty('UNet2DConditionModel', nemo_config.unet_config(self.config), self._of(part))
        return build_empty('CLIPTextModel', self.text_config(), self._of(part))

    def text_encoder(self, dtype: torch.dtype | None) -> nn.Module:
        return build_model('CLIPTextModel', self.text_config(), self.text_tensors(), dtype, self._of('text_encoder'))

    def unet(self, dtype: torch.dtype | None) -> nn.Module:
        tensors = self.parts['unet']
        if nemo_keys.find_vintage(tensors) == 'te':
            logger.warning(
                '%s was saved with Transformer Engine layers. Their weights are read by the layout that NeMo describes; '
                'it was never compared with Transformer Engine itself.',
                self.name,
            )
        config = nemo_config.unet_config(self.config)
        attends = {i: kind.startswith('CrossAttn') for i, kind in enumerate(config['up_block_types'])}

        def nemo_key(key: str) -> str:
            return nemo_keys.to_nemo_unet_key(key, config['layers_per_block'], attends)

        model = build_model(
            'UNet2DConditionModel', config, nemo_keys.to_latest_names(tensors), dtype, self._of('unet'), nemo_key
        )
        if self.attends_unnormalised():
            logger.warning('%s: self-attention takes un-normalised keys and values, as NeMo v1.23 did.', self.name)
            return take_unnormalised_keys_and_values(model)
        if nemo_keys.find_vintage(tensors) == 'v1.23' and self.unnormalised_kv is not None:
            logger.warning('%s: %s', self.name, _UNNORMALISED)
        return model

    def attends_unnormalised(self) -> bool:
        vintage = nemo_keys.find_vintage(self.parts['unet'])
        if self.config.get(nemo_config.SECTION, {}).get('unnormalised_kv'):
            return True
        if self.unnormalised_kv and vintage in _BEFORE_OR_AFTER:
            allowed = f'false for {self.name!r}: the archive has the layout of {vintage}, and only v1.23 did so'
            refuse('unnormalised_kv', True, allowed, 'Set unnormalised_kv=false.')
        return bool(self.unnormalised_kv)

    def vae(self, dtype: torch.dtype | None) -> nn.Module:
        tensors = {k: v for k, v in self.parts['vae'].items() if not k.startswith('loss.')}
        config = nemo_config.vae_config(self.config, tensors, self.parts['schedule'])
        levels = len(config['block_out_channels'])
        tensors = {key: nemo_keys.to_diffusers_vae_tensor(key, value) for key, value in tensors.items()}
        return build_model(
            'AutoencoderKL',
            config,
            tensors,
            dtype,
            self._of('vae'),
            lambda key: nemo_keys.to_nemo_vae_key(key, levels),
        )

    def scheduler_config(self) -> dict[str, Any]:
        return nemo_config.scheduler_config(self.config, self.parts['schedule'])

    def context_length(self) -> int | None:
        tokens = self.text_config()['max_position_embeddings']
        chosen = nemo_config.check_context_length('context_length', self._context_length, tokens)
        return nemo_config.context_length(self.config, tokens) if chosen == 'auto' else chosen

    def _of(self, part: str) -> str:
        return f'{part} of {self.name!r}'
