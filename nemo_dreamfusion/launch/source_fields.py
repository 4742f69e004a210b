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

"""Read what a class takes from the source of its package, without importing it: NeMo and Lightning take seconds."""

from __future__ import annotations

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def read_arguments(module: str, name: str) -> list[str]:
    """Return the keyword arguments of a class's constructor.

    Args:
        module: where the class is written, such as ``lightning.pytorch.trainer.trainer``.
        name: of the class.

    Raises:
        LookupError: where the source is not there, or not of the form that is read.
    """
    for node in _find_class(module, name).body:
        if isinstance(node, ast.FunctionDef) and node.name == '__init__':
            return [argument.arg for argument in (*node.args.args[1:], *node.args.kwonlyargs)]
    raise LookupError(f'{module}.{name} has no constructor')


def read_fields(module: str, name: str) -> dict[str, Any]:
    """Return the fields of a dataclass, and of the dataclasses in it: name -> fields, None (any mapping) or False (a leaf).

    Raises:
        LookupError: as in :func:`read_arguments`.
    """
    found: dict[str, Any] = {}
    for node in _find_class(module, name).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = _read_type(module, node.annotation)
    return found


def _read_type(module: str, annotation: ast.expr) -> dict[str, Any] | None | bool:
    names = [node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)]
    if 'Dict' in names or 'dict' in names:
        return None
    for name in names:
        if name.endswith('Params'):  # how NeMo calls the nodes of its configuration
            return read_fields(*_where(module, name))
    return False


def _find_class(module: str, name: str) -> ast.ClassDef:
    module, name = _where(module, name)
    return next(node for node in _parse(module).body if isinstance(node, ast.ClassDef) and node.name == name)


def _where(module: str, name: str) -> tuple[str, str]:
    """Return the module that a class is written in, which may be one that ``module`` imports it from."""
    for node in _parse(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, name
        if isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _where(str(node.module), alias.name)
    raise LookupError(f'there is no class {name} in {module}')


@cache
def _parse(module: str) -> ast.Module:
    package, *names = module.split('.')
    spec = find_spec(package)  # of the outermost package only: that imports nothing
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, *names)
        for file in (path.with_suffix('.py'), path / '__init__.py'):
            if file.is_file():
                try:
                    return ast.parse(file.read_text(encoding='utf-8'))
                except (SyntaxError, ValueError, OSError) as error:
                    raise LookupError(f'{file} cannot be read') from error
    raise LookupError(f'there is no source of {module}')
