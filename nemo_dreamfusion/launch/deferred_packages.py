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

"""Import large packages without what only their ``__init__`` asks for, until somebody asks for it.

A fit takes one or two submodules of each of these packages. Their ``__init__`` imports all the others, and through them
whole libraries.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import version
from threading import RLock, get_ident
from types import ModuleType
from typing import Any

Makers = Mapping[str, Callable[[], Any]]  # attribute -> what returns it

# With each package: what Lightning, or a submodule, takes from the package itself
PACKAGES: Mapping[str, Makers] = {
    'torchmetrics': {  # two classes of Lightning's: with it SciPy's signals and statistics, and transformers
        # not of torchmetrics.metric: that cannot be imported before torchmetrics.utilities
        'Metric': lambda: import_module('torchmetrics.utilities.checks').Metric,
        'MetricCollection': lambda: import_module('torchmetrics.collections').MetricCollection,
        '_logger': lambda: logging.getLogger('torchmetrics'),
        '__version__': lambda: version('torchmetrics'),
    },
    'pandas': {},  # of a logger of NeMo's
    'onnxruntime': {},  # of NeMo's export
    'nemo.collections.common': {},  # two callbacks of exp_manager
    'scipy.stats': {},  # of a sampler of diffusers
    'diffusers.hooks': {},  # one function
    'diffusers.models.autoencoders': {},
    'diffusers.models.transformers': {},  # two blocks of a UNet, of sixty models
    'diffusers.models.unets': {},
}
_WAITING = '__deferred_loader__'  # the name under which a package keeps its loader until its __init__ has ended


def defer_packages(packages: Mapping[str, Makers] = PACKAGES) -> None:
    """Let later imports of these packages run their ``__init__`` when it is first needed, in this process.

    Submodules can be imported at once. Any name that the package has no submodule for, ``dir()`` and ``import *`` run the
    ``__init__`` first, so that a program sees the package that is installed. Packages that are imported already stay as
    they are, and a second call with the same packages does nothing.

    Args:
        packages: name -> attribute -> what returns it without the ``__init__``.
    """
    if not any(isinstance(finder, _Finder) and finder.packages == packages for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder(packages))


class _Finder(MetaPathFinder):
    def __init__(self, packages: Mapping[str, Makers]) -> None:
        self.packages = packages

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self.packages:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        spec.loader = _DeferredLoader(spec.loader, self.packages[name])
        return spec


class _DeferredLoader(Loader):
    def __init__(self, loader: Loader, makers: Makers) -> None:
        self.loader, self.makers = loader, makers
        self.lock = RLock()
        self.running_in: int | None = None  # the thread that runs the __init__

    def create_module(self, spec: ModuleSpec) -> None:
        """Take the usual one; the import system gives it __path__ and __spec__, which is all that submodules need."""

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__[_WAITING] = self
        module.__class__ = _Deferred


class _Deferred(ModuleType):
    """A package whose ``__init__`` did not end yet; one that fails runs, and says its error, each time it is needed."""

    def __getattr__(self, name: str) -> Any:  # called for what the package does not have yet
        waiting: _DeferredLoader | None = self.__dict__.get(_WAITING)
        if waiting and waiting.running_in != get_ident():
            with waiting.lock:
                if _WAITING in self.__dict__ and (make := waiting.makers.get(name)):
                    return make()
                _Deferred._run(self, waiting)  # its class may be another by now
        return ModuleType.__getattribute__(self, name)

    def __dir__(self) -> list[str]:
        waiting: _DeferredLoader | None = self.__dict__.get(_WAITING)
        if waiting and waiting.running_in != get_ident():
            with waiting.lock:
                _Deferred._run(self, waiting)  # its class may be another by now
        return list(ModuleType.__dir__(self))

    def _run(self, waiting: _DeferredLoader) -> None:
        """Run the ``__init__``, as an import would have done, unless another thread did meanwhile."""
        if _WAITING not in self.__dict__:
            return
        spec = self.__spec__
        assert spec is not None
        spec.loader = self.__loader__ = waiting.loader
        waiting.running_in = get_ident()
        try:
            waiting.loader.exec_module(self)
        finally:
            waiting.running_in = None
        del self.__dict__[_WAITING]
        self.__class__ = ModuleType  # type: ignore[assignment]  # a package like any other from here on
