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

"""Prompt debiasing by view: words that speak against a view are left out of that view's text (arXiv 2303.15413).

A masked language model fills in "This image is depicting a [MASK] view of <prompt>". A word that makes a view less
likely than the text without it ("a smiling dog": back) is dropped from that view's text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from nemo_dreamfusion.parts.types import VIEWS, PromptSet

ViewProbabilities = Callable[[str], Sequence[float]]  # a text -> one number per view of VIEWS
THRESHOLD = 0.95


def dropped_for(full: Sequence[float], without: Sequence[float], threshold: float = THRESHOLD) -> list[bool]:
    """For each view, whether a word is left out: P / (P / 2 + P' / 2) < threshold, P with it and P' without it.

    Both are normalised over the views first.
    """
    full, without = [[p / sum(row) for p in row] for row in (full, without)]
    return [p < threshold * (0.5 * p + 0.5 * q) for p, q in zip(full, without)]


def debias(prompt: str, probabilities: ViewProbabilities, threshold: float = THRESHOLD) -> dict[str, str]:
    """The prompt for each view, without the words that speak against the view."""
    words = prompt.split()
    full = probabilities(prompt)
    kept: dict[str, list[str]] = {view: [] for view in VIEWS}
    for i, word in enumerate(words):
        without = ' '.join(words[:i] + words[i + 1 :])
        drop = dropped_for(full, probabilities(without), threshold) if without else [False] * len(VIEWS)
        for view, dropped in zip(VIEWS, drop):
            if not dropped:
                kept[view].append(word)
    return {view: ' '.join(view_words) or prompt for view, view_words in kept.items()}


def debiased(prompts: PromptSet, probabilities: ViewProbabilities, threshold: float = THRESHOLD) -> PromptSet:
    """The same texts with debiased ones for the views that the user did not write."""
    texts = debias(prompts.prompt, probabilities, threshold)
    made = {view: texts[view] + added for view, added in zip(VIEWS, prompts.added, strict=True)}
    made = {view: text for view, text in made.items() if not prompts.written()[view]}
    return dataclasses.replace(prompts, **made)
