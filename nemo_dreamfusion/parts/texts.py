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

"""The settings that are texts of the user: data, in which nothing is ever interpolated."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from nemo_dreamfusion.parts.types import VIEWS

TEXTS = ('prompt', 'negative_prompt', *(f'{view}_prompt' for view in VIEWS))  # of the model node
NULLABLE_TEXTS = (*(f'view_prompts.{view}' for view in VIEWS), 'edit.source_prompt')  # null: none


def escape_interpolation(text: str) -> str:
    r"""Write a text so that OmegaConf reads it as it stands; one that is written so already stays as it is.

    OmegaConf takes ``${`` for an interpolation unless an odd number of backslashes stands before it.

    >>> escape_interpolation('a ${red} cube')
    'a \\${red} cube'
    """
    return re.sub(r'(?<!\\)((?:\\\\)*)\$\{', lambda found: f'{found[1] * 2}\\${{', text)


def escape_text(text: str) -> str:
    r"""Write any text so that OmegaConf reads it as it stands: backslashes before ``${`` are part of it.

    >>> escape_text('a ${red} cube'), escape_text('a \\${red} cube')
    ('a \\${red} cube', 'a \\\\\\${red} cube')
    """
    return re.sub(r'(\\*)\$\{', lambda found: f'{found[1] * 2}\\${{', text)


def escape_texts(plain: Any) -> Any:
    r"""Return plain data whose texts OmegaConf reads as they stand: what was resolved once is not resolved again.

    >>> escape_texts({'name': ['a ${red} cube', 1]})
    {'name': ['a \\${red} cube', 1]}
    """
    if isinstance(plain, Mapping):
        return {key: escape_texts(value) for key, value in plain.items()}
    if isinstance(plain, list):
        return [escape_texts(value) for value in plain]
    return escape_text(plain) if isinstance(plain, str) else plain


def keep_texts_literal(model: DictConfig) -> None:
    """Change the texts of a ``model`` node so that nothing in them is interpolated."""
    _rewrite_texts(model, escape_interpolation)


def literal_when_resolved(model: DictConfig) -> DictConfig:
    """Return a copy of a ``model`` node whose texts are still literal in what is made of its resolved values.

    NeMo's ModelPT resolves its configuration and makes a new one of what that gives.
    """
    copied = model.copy()
    _rewrite_texts(copied, escape_text)
    return copied


def _rewrite_texts(model: DictConfig, rewrite: Callable[[str], str]) -> None:
    for key in (*TEXTS, *NULLABLE_TEXTS):
        node_name, _, name = key.rpartition('.')
        node = OmegaConf.select(model, node_name) if node_name else model
        if not OmegaConf.is_dict(node) or name not in node.keys() or not OmegaConf.is_interpolation(node, name):
            continue
        written = OmegaConf.to_container(node, resolve=False)
        assert isinstance(written, dict)
        with open_dict(node):
            node[name] = rewrite(written[name])
