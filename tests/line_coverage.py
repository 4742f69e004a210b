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

"""Which lines of the package the tests run, for a report of coverage.py's, at next to no cost.

In Python 3.11 a trace function, such as coverage.py's own, makes every library 2.4 times slower (measured for composing a
configuration, in which no line of the package runs). Here each statement of the package gets a call before it that notes its
line, when a module is imported. Dynamo takes that call for a constant, as it does not with other tools' changes of bytecode.
"""

import ast
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

import coverage
import pytest
from coverage import CoverageData

PACKAGE = Path(__file__).parents[1] / 'nemo_dreamfusion'
NOTE = '__note_line__'
FOLDER = 'NEMO_DREAMFUSION_LINES'  # the environment's name of that folder, for xdist's processes


class AddNotes(ast.NodeTransformer):
    """Put a call of NOTE before each statement, but before docstrings and __future__, which must come first."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Change the lists of statements in a node, from the inside out."""
        super().generic_visit(node)
        for name in ('body', 'orelse', 'finalbody'):
            if isinstance(statements := getattr(node, name, None), list):
                setattr(node, name, self._with_notes(node, statements))
        return node

    def _with_notes(self, parent: ast.AST, statements: list[ast.stmt]) -> list[ast.stmt]:
        found: list[ast.stmt] = []
        for i, statement in enumerate(statements):
            lines = [statement.lineno, *(one.lineno for one in getattr(statement, 'decorator_list', []))]
            if i == 0 and isinstance(parent, ast.ExceptHandler):
                lines.append(parent.lineno)
            if i == 0 and isinstance(parent, ast.match_case):
                lines.append(parent.pattern.lineno)
            if not (_is_docstring(parent, i, statement) or getattr(statement, 'module', None) == '__future__'):
                call = ast.Call(ast.Name(NOTE, ast.Load()), [ast.Constant(line) for line in lines], [])
                found.append(ast.fix_missing_locations(ast.copy_location(ast.Expr(call), statement)))
            found.append(statement)
        return found


def _is_docstring(parent: ast.AST, i: int, statement: ast.stmt) -> bool:
    has_one = isinstance(parent, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return has_one and i == 0 and is_text


def make_note(lines: set[int]) -> Callable[..., bool]:
    """Return what a module calls before each statement."""

    def note(*new: int) -> bool:
        lines.update(new)
        return True

    note._dynamo_marked_constant = True  # type: ignore[attr-defined]  # as torch.compiler.assume_constant_result does
    return note


class Loader(SourceFileLoader):
    """Import a module with its notes."""

    folder = ''  # of what each process has noted
    noted: dict[str, set[int]] = {}  # file -> lines that ran

    def path_stats(self, path: str) -> dict:
        """Keep compiled files out, which have no notes, and leave none."""
        raise OSError

    def source_to_code(self, data: bytes, path: str, *, _optimize: int = -1) -> CodeType:  # type: ignore[override]
        """Compile the source with its notes."""
        tree = AddNotes().visit(ast.parse(data, path))
        return compile(tree, path, 'exec', dont_inherit=True, optimize=_optimize)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, which finds what it calls among its globals."""
        setattr(module, NOTE, make_note(self.noted.setdefault(self.path, set())))
        super().exec_module(module)


class Finder:
    """Find the package's modules, before Python's own finders do."""

    @staticmethod
    def find_spec(name: str, path: list[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the usual specification with another loader."""
        if name.partition('.')[0] != PACKAGE.name:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec


def start() -> bool:
    """Note the lines of all modules imported from now on, if ``make test`` or its xdist asks for it; return whether."""
    asked, is_worker = os.environ.pop('COVERAGE', None), 'PYTEST_XDIST_WORKER' in os.environ
    if is_worker:
        Loader.folder = os.environ.pop(FOLDER, '')  # tests may start pytest, too
    elif asked:
        Loader.folder = os.environ[FOLDER] = tempfile.mkdtemp(prefix='lines-')
    if Loader.folder:
        assert not any(name.startswith(PACKAGE.name) for name in sys.modules), 'the package is imported already'
        sys.meta_path.insert(0, Finder)
    return bool(Loader.folder)


def pytest_sessionfinish() -> None:
    """Write what this process has noted."""
    data = CoverageData(str(Path(Loader.folder) / f'.coverage.{os.getpid()}'))
    data.add_lines({str(path): set() for path in PACKAGE.rglob('*.py')} | Loader.noted)
    data.write()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write the table of all processes' lines, without files that ran as a whole."""
    if 'PYTEST_XDIST_WORKER' in os.environ:
        return
    noted = coverage.Coverage(data_file=str(Path(Loader.folder) / '.coverage'), config_file=False)
    noted.combine([Loader.folder])
    terminalreporter.section('coverage')
    noted.report(file=terminalreporter, skip_covered=True)
    shutil.rmtree(Loader.folder)
