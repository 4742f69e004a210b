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

"""Read the imports of Python source text, for tests/test_architecture.py."""

import ast
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter


@dataclass(frozen=True)
class Imported:
    """One imported name with its full dotted path, for example nemo_dreamfusion.modules.nerf.base.RadianceField."""

    name: str
    line: int
    lazy: bool  # inside a function
    typing_only: bool  # under ``if TYPE_CHECKING``


class ImportVisitor(ast.NodeVisitor):
    """Collects import statements and the calls that import by name (``require('x')``, ``import_module('x')``)."""

    def __init__(self, package: str) -> None:
        self.package = package  # what a relative import starts from
        self.found: list[Imported] = []
        self.lazy = False
        self.typing_only = False

    def add(self, name: str, line: int) -> None:
        self.found.append(Imported(name, line, self.lazy, self.typing_only))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.add(alias.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ''
        if node.level:
            parents = self.package.split('.')
            base = '.'.join(parents[: len(parents) - node.level + 1] + ([node.module] if node.module else []))
        for alias in node.names:
            self.add(f'{base}.{alias.name}', node.lineno)

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, 'id', '')
        if called in ('require', 'import_module', '__import__') and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                self.add(name.value, node.lineno)
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        outer, self.lazy = self.lazy, True
        self.generic_visit(node)
        self.lazy = outer

    visit_AsyncFunctionDef = visit_FunctionDef
    visit_Lambda = visit_FunctionDef

    def visit_If(self, node: ast.If) -> None:
        outer = self.typing_only
        self.typing_only = outer or 'TYPE_CHECKING' in ast.unparse(node.test)
        for child in node.body:
            self.visit(child)
        self.typing_only = outer
        for child in node.orelse:
            self.visit(child)


def imports_of(module: str, source: str, is_package: bool = False) -> list[Imported]:
    visitor = ImportVisitor(module if is_package else module.rpartition('.')[0])
    visitor.visit(ast.parse(source))
    return visitor.found


def is_inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + '.')


def import_circle(imports: dict[str, list[Imported]]) -> list[str]:
    """The modules of one circle of imports, those inside functions included; empty where there is none."""
    graph = {}
    for module, imported in imports.items():
        names = [i.name for i in imported if not i.typing_only]
        there = {name if name in imports else name.rpartition('.')[0] for name in names}  # a module, or what is in it
        graph[module] = there & imports.keys() - {module}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []
