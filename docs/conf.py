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

"""Sphinx settings: `make docs` builds the site into build/docs, offline, with warnings as errors."""

import re
import runpy
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
INFO = runpy.run_path(str(ROOT / 'nemo_dreamfusion' / 'package_info.py'))

project = INFO['__package_name__']
author = INFO['__contact_names__']
project_copyright = f'2026, {author}'
version = release = INFO['__version__']

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.autosummary',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
]
html_extra_path = [name for name in ('gallery',) if (Path(__file__).parent / name).is_dir()]  # objects.html
exclude_patterns = ['README.md']  # GitHub's front page of this folder, and the text of index.md
templates_path = ['_templates']

myst_heading_anchors = 3  # links to headings work as they do on GitHub

autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_default_options = {'members': True, 'show-inheritance': True, 'exclude-members': 'training'}

html_theme = 'furo'
html_title = f'{project} {version}'


def escape_bars(app, what, name, obj, options, lines: list[str]) -> None:
    """Let docstrings write |x| for an absolute value: reStructuredText would take it for a substitution."""
    lines[:] = [re.sub(r'(``.*?``)|\|', lambda found: found[1] or r'\|', line) for line in lines]


# Pages of the site that are written elsewhere, since GitHub shows them there: their text comes before the page's own.
WRITTEN_IN = {
    'index': DOCS / 'README.md',
    'contributing': ROOT / 'CONTRIBUTING.md',
    'changelog': ROOT / 'CHANGELOG.md',
}


def read_page(app, name: str, content: list[str]) -> None:
    """Make a page of GitHub's one of the site: a link to a file outside of docs/ becomes a download."""
    if name in WRITTEN_IN:
        text = WRITTEN_IN[name].read_text(encoding='utf-8')
        if WRITTEN_IN[name].parent == ROOT:  # its links start at the root
            text = re.sub(r'(\]\()(?![\w+]*:|#)', r'\1../', text).replace('](../docs/', '](')
        content[0] = text + content[0]
    for page in ('CONTRIBUTING', 'CHANGELOG'):
        content[0] = content[0].replace(f'](../{page}.md', f']({page.lower()}.md')
    content[0] = re.sub(r'(?<!!)(\[[^][]*\]\()\.\./', r'\1path:../', content[0])


def setup(app) -> None:
    """Connect the hooks above; Sphinx calls this."""
    app.connect('autodoc-process-docstring', escape_bars)
    app.connect('source-read', read_page)
