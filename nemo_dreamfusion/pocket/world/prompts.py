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

"""The prompts of the world: their grammar, their true scenes, and captions of views."""

from nemo_dreamfusion.pocket.world.captions import (
    AZIMUTH_VIEWS,
    ELEVATION_VIEWS,
    KNOWN_WORDS,
    VIEWS,
    camera_words,
    normalize,
    write_caption,
)
from nemo_dreamfusion.pocket.world.grammar import (
    COLORS,
    OBJECT_NAMES,
    PROMPTS_WITH_FRONT,
    RELATIONS,
    SHAPES,
    SIZES,
    SUITE,
    SUPPORTS,
    Phrase,
    Thing,
    add_article,
    read_phrase,
)
from nemo_dreamfusion.pocket.world.objects import PARTS
from nemo_dreamfusion.pocket.world.scenes import PAIR_SCALE, build_scene, has_front

__all__ = [
    'AZIMUTH_VIEWS',
    'COLORS',
    'ELEVATION_VIEWS',
    'KNOWN_WORDS',
    'OBJECT_NAMES',
    'PAIR_SCALE',
    'PARTS',
    'PROMPTS_WITH_FRONT',
    'Phrase',
    'RELATIONS',
    'SHAPES',
    'SIZES',
    'SUITE',
    'SUPPORTS',
    'Thing',
    'VIEWS',
    'add_article',
    'build_scene',
    'camera_words',
    'has_front',
    'normalize',
    'read_phrase',
    'write_caption',
]
