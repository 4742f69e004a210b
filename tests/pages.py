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

"""Read the project's pages: their links, the anchors of their headings, the commands and the settings that they name."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob('*.md'), *(ROOT / 'docs').glob('*.md')])
FENCE = re.compile(r'^```(\w*)\n(.*?)^```', re.M | re.S)
SPAN = re.compile(r'`([^`\n]+)`')
LINK = re.compile(r'\]\(([^)\s]+)\)')
PLACEHOLDER = re.compile(r'<[\w ./]+>')  # <file>, <hub id or folder>
NODES = ('model', 'trainer', 'exp_manager', 'hydra', 'metric')
KEY = re.compile(rf'(?:{"|".join(NODES)})\.\w+(?:\.\w+)*')
FILE = re.compile(r'(?:\w+/)+\w+\.py')
SETTING = re.compile(r'[a-z]\w*(?:[./]\w+)*=[^=].*')


@dataclass(frozen=True)
class Command:
    """One command of a code block: its program (``dreamfusion``, ``evaluate``, ``make``, ...) and its arguments."""

    program: str
    arguments: tuple[str, ...]


def prose(text: str) -> str:
    """The page without its code blocks."""
    return FENCE.sub('', text)


def links(text: str) -> list[str]:
    """The targets of all links and images that stay inside the project."""
    return [link for link in LINK.findall(prose(text)) if '://' not in link and not link.startswith('mailto:')]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub and MyST give to a page's headings."""
    headings = re.findall(r'^#+ (.+)$', prose(text), re.M)
    plain = [re.sub(r'[^\w\- ]', '', heading.lower()).strip() for heading in headings]
    return {heading.replace(' ', '-') for heading in plain}


def broken_links(page: Path) -> list[str]:
    """The links of a page to files or headings that do not exist."""
    broken = []
    for link in links(page.read_text(encoding='utf-8')):
        path, _, anchor = link.partition('#')
        target = page.parent / path if path else page
        if not target.exists():
            broken.append(link)
        elif anchor and (target.suffix != '.md' or anchor not in anchors(target.read_text(encoding='utf-8'))):
            broken.append(link)
    return broken


def missing_files(text: str) -> list[str]:
    """The files named in code spans, from the root or the package on, that do not exist."""
    paths = [span for span in SPAN.findall(prose(text)) if FILE.fullmatch(span)]
    return [
        path for path in paths if not any((folder / path).exists() for folder in (ROOT, ROOT / 'nemo_dreamfusion'))
    ]


def commands(text: str) -> list[Command]:
    """The commands of this project in a page's code blocks, ``\\`` at a line's end joined."""
    found = []
    for language, block in FENCE.findall(text):
        for line in block.replace('\\\n', ' ').splitlines() if language in ('', 'bash') else ():
            words = shlex.split(PLACEHOLDER.sub('placeholder', line), comments=True)
            programs = [program_of(word) for word in words]
            start = next((i for i, program in enumerate(programs) if program), None)
            if start is not None:
                found.append(Command(programs[start] or '', tuple(words[start + 1 :])))
    return found


def program_of(word: str) -> str | None:
    """Which of our programs a word of a command line starts: by its file, its console command, or ``make``."""
    if word == 'make':
        return 'make'
    if script := re.fullmatch(r'examples/([\w/]+)\.py', word):
        return script[1]
    if command := re.fullmatch(r'nemo-dreamfusion(?:-([\w-]+))?', word):
        return command[1] or 'dreamfusion'
    return None


def settings(text: str) -> list[str]:
    """The ``key=value`` settings in a page's code spans."""
    spans = [PLACEHOLDER.sub('placeholder', span) for span in SPAN.findall(prose(text))]
    return [span for span in spans if SETTING.fullmatch(span)]


def keys(text: str) -> list[str]:
    """The keys in a page's code spans that stand without a value, such as ``trainer.max_steps``."""
    return [span for span in SPAN.findall(prose(text)) if KEY.fullmatch(span)]
