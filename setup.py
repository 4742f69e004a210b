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

"""Metadata, extras (one per file in requirements/) and the optional native CPU library."""

import os
import runpy
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SOURCES = ROOT / 'nemo_dreamfusion/ops/backends/csrc'
INFO = runpy.run_path(str(ROOT / 'nemo_dreamfusion' / 'package_info.py'))


def read_requirements(path: Path) -> list[str]:
    """Return the requirement lines of a file, without comments and blank lines."""
    lines = (line.split(' #')[0].strip() for line in path.read_text(encoding='utf-8').splitlines())
    return [line for line in lines if line and not line.startswith('#')]


def read_extras() -> dict[str, list[str]]:
    """Return one extra for each file beside requirements.txt, named after the file."""
    files = sorted((ROOT / 'requirements').glob('*.txt'))
    return {path.stem: read_requirements(path) for path in files if path.stem != 'requirements'}


class BuildNative(build_ext):
    """Build the native library where that works; where it does not, say so in one line and carry on."""

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:  # whatever a foreign tool chain throws, the package works without the library
            self._give_up(error)

    def build_extension(self, ext: Extension) -> None:
        try:
            self._build_with_or_without_openmp(ext)
        except Exception as error:  # as above
            self._give_up(error)

    def get_ext_filename(self, fullname: str) -> str:
        """Name the library plainly: it is loaded by ctypes, so it belongs to no version of Python."""
        return os.path.join(*fullname.split('.')) + '.so'

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []  # a plain library for ctypes: there is no PyInit function to export

    def _build_with_or_without_openmp(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except Exception:
            ext.extra_compile_args = [a for a in ext.extra_compile_args if a != '-fopenmp']
            ext.extra_link_args = [a for a in ext.extra_link_args if a != '-fopenmp']
            super().build_extension(ext)

    def _give_up(self, error: Exception) -> None:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        print(
            f'WARNING: nemo_dreamfusion: the native CPU library was not built ({reason}); '
            'the slower torch reference is used in its place.',
            file=sys.stderr,
        )


class BuildWithPage(build_py):
    """Put the page that error messages name into the package, where a wheel has no docs."""

    def run(self) -> None:
        super().run()
        page = ROOT / 'docs' / 'troubleshooting.md'
        if page.is_file() and not self.editable_mode:
            self.copy_file(str(page), os.path.join(self.build_lib, 'nemo_dreamfusion', page.name))


class PlatformWheel(bdist_wheel):
    """Tag the wheel for every Python 3 of one platform, ``py3-none-<platform>``."""

    def get_tag(self) -> tuple[str, str, str]:
        _, _, platform = super().get_tag()
        return 'py3', 'none', platform


def native_library() -> list[Extension]:
    """Return the one shared library of ops/backends/csrc: plain C interface, no Python and no torch headers."""
    sources = sorted(path.relative_to(ROOT).as_posix() for path in SOURCES.glob('*.cpp'))
    if not sources:
        return []
    headers = sorted(path.relative_to(ROOT).as_posix() for path in SOURCES.glob('*.h'))
    return [
        Extension(
            'nemo_dreamfusion.ops.backends._native',
            sources,
            depends=headers,
            language='c++',
            extra_compile_args=['-O3', '-fopenmp', '-std=c++17'],
            extra_link_args=['-fopenmp'],
            optional=True,
        )
    ]


setup(
    name=INFO['__package_name__'],
    version=INFO['__version__'],
    description=INFO['__description__'],
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author=INFO['__contact_names__'],
    license=INFO['__license__'],
    keywords=INFO['__keywords__'],
    # 3.14: Hydra 1.3 fails there. The Makefile refuses the same versions before it installs anything.
    python_requires='>=3.11,<3.14',
    packages=find_packages(include=['nemo_dreamfusion', 'nemo_dreamfusion.*']),
    package_data={
        'nemo_dreamfusion': ['conf/**/*.yaml', 'pocket/weights/**/*', 'ops/backends/csrc/*', 'export/report/assets/*']
    },
    install_requires=read_requirements(ROOT / 'requirements' / 'requirements.txt'),
    extras_require=read_extras(),
    entry_points={
        'console_scripts': [
            'nemo-dreamfusion = nemo_dreamfusion.launch.command_line:command',
            'nemo-dreamfusion-evaluate = nemo_dreamfusion.launch.command_line:main_evaluate',
            'nemo-dreamfusion-bench = nemo_dreamfusion.launch.command_line:main_bench',
            'nemo-dreamfusion-convert = nemo_dreamfusion.launch.command_line:main_convert',
            'nemo-dreamfusion-build-engines = nemo_dreamfusion.launch.command_line:main_build_engines',
            'nemo-dreamfusion-train-pocket = nemo_dreamfusion.launch.command_line:main_train_pocket',
        ]
    },
    ext_modules=native_library(),
    cmdclass={'build_py': BuildWithPage, 'build_ext': BuildNative, 'bdist_wheel': PlatformWheel},
    zip_safe=False,
)
