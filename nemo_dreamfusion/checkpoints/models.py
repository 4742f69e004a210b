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

"""Build the networks of a Stable Diffusion from a configuration and tensors, however they were stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nemo_dreamfusion.parts.checks import first_line

TEXT_MODELS = {  # of transformers, with the class of their configuration
    'CLIPTextModel': 'CLIPTextConfig',
    'CLIPTextModelWithProjection': 'CLIPTextConfig',
    'T5EncoderModel': 'T5Config',
    'Qwen3Model': 'Qwen3Config',
}


def build_empty(kind: str, config: Mapping[str, Any], name: str) -> nn.Module:
    """Return a network without memory for its tensors (on torch's ``meta`` device).

    Args:
        kind: a class of diffusers, or one of ``TEXT_MODELS``.
        config: its configuration.
        name: of the configuration, for the message.

    Raises:
        ValueError: with the library's reason when it does not load, or makes no network of the configuration.
    """
    make = _maker(kind)
    try:
        with torch.device('meta'):
            return make(dict(config))
    except Exception as error:  # constructors raise ValueError, TypeError, KeyError and validation errors alike
        raise ValueError(f'No {kind} can be made of the configuration of {name} ({first_line(error)}).') from error


def _maker(kind: str) -> Callable[[dict[str, Any]], nn.Module]:
    """Return what makes a network of its configuration; ValueError where the library does not load on this machine."""
    try:
        if kind in TEXT_MODELS:
            import transformers

            configuration, model = getattr(transformers, TEXT_MODELS[kind]), getattr(transformers, kind)
            return lambda config: model(configuration.from_dict(config))
        import diffusers

        return getattr(diffusers, kind).from_config
    except Exception as error:  # of any package that they import when they find it, such as torchvision
        reason = first_line(error.__cause__ or error)
        raise ValueError(
            f'{kind} cannot be loaded here ({reason}). If that names torchvision: nothing here needs it, and the release '
            'built for another torch keeps diffusers from loading: pip uninstall torchvision'
        ) from error


def build_model(
    kind: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype | None,
    name: str,
    stored_key: Callable[[str], str] = lambda key: key,
) -> nn.Module:
    """Return a network that holds exactly these tensors, in eval mode.

    Args:
        kind: the class.
        config: its configuration.
        tensors: by the names they are stored under.
        dtype: of the result's numbers; None keeps each tensor's own.
        name: what it is, for messages.
        stored_key: from the model's own name of a tensor to the one it is stored under.

    Raises:
        ValueError: when a tensor is missing, is left over, or has another shape, with its name.
    """
    model = build_empty(kind, config, name)
    wanted = model.state_dict()
    keys = {key: stored_key(key.removeprefix('text_model.')) for key in wanted}
    missing = [stored for stored in keys.values() if stored not in tensors]
    surplus = sorted(set(tensors) - set(keys.values()))
    if missing or surplus:
        raise ValueError(
            f'{name} does not fit its configuration: {_keys("lacks", missing)}{_keys("has also", surplus)}.'
        )
    for key, stored in keys.items():
        if wanted[key].shape != tensors[stored].shape:
            shapes = f'{list(tensors[stored].shape)} instead of {list(wanted[key].shape)}'
            raise ValueError(f'{name} does not fit its configuration: {stored} has the shape {shapes}.')
    model.load_state_dict({key: _cast(tensors[stored], dtype) for key, stored in keys.items()}, assign=True)
    _materialise_buffers(model)
    return model.eval()


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return the tensor in another precision; a count (of a batch norm) stays as it is."""
    return tensor.to(dtype=dtype) if tensor.is_floating_point() else tensor


def load_text_model(kind: str, folder: Path, dtype: torch.dtype | None, name: str, variant: str | None) -> nn.Module:
    """Load a language model of transformers by its own loader, in eval mode.

    Args:
        kind: the class.
        folder: its configuration and weights.
        dtype: of its weights; None keeps their own.
        name: what it is, for messages.
        variant: infix of the weight files; None: the plain ones.

    Raises:
        ValueError: when files are damaged, or tensors are missing.
    """
    import transformers

    try:
        model, report = getattr(transformers, kind).from_pretrained(
            folder,
            dtype=dtype or 'auto',
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # of transformers, safetensors or the disk
        raise ValueError(f'{name} cannot be loaded ({first_line(error)}).') from error
    missing = [str(key) for key in report['missing_keys']]
    if missing or report.get('mismatched_keys'):
        raise ValueError(f'{name} does not fit its configuration: {_keys("lacks", missing) or "sizes differ "}.')
    return model.eval()


def _keys(what: str, keys: list[str]) -> str:
    more = f' and {len(keys) - 3} more' if len(keys) > 3 else ''
    return f'it {what} {", ".join(keys[:3])}{more} ' if keys else ''


def _materialise_buffers(model: nn.Module) -> None:
    """Set the position numbers of a text model, which no file stores."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta and name == 'position_ids':
                module.register_buffer(name, torch.arange(buffer.shape[-1])[None], persistent=False)
            elif buffer.is_meta:
                raise ValueError(f'{type(module).__name__}.{name} is a buffer that no file stores.')


def take_unnormalised_keys_and_values(unet: nn.Module) -> nn.Module:
    """Make each self-attention take keys and values from the block's input before its normalisation, as in NeMo v1.23."""
    for block in unet.modules():
        if type(block).__name__ != 'BasicTransformerBlock':
            continue
        inputs: list[Tensor] = []

        def keep(module: nn.Module, args: tuple, kwargs: dict, inputs: list[Tensor] = inputs) -> None:
            inputs[:] = [args[0] if args else kwargs['hidden_states']]

        def give(module: nn.Module, args: tuple, kwargs: dict, inputs: list[Tensor] = inputs) -> tuple[tuple, dict]:
            return args, {**kwargs, 'encoder_hidden_states': inputs.pop()}

        attention = block.attn1
        assert isinstance(attention, nn.Module)
        block.register_forward_pre_hook(keep, with_kwargs=True)
        attention.register_forward_pre_hook(give, with_kwargs=True)
    return unet


@contextmanager
def hide_progress_bars() -> Iterator[None]:
    """Hide the progress bars of loading and saving; the hub's own, of downloads, stay."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
