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


"""Set how much NeMo, Lightning and their dependencies print."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nemo.utils import logging as nemo_logging

from nemo_dreamfusion.parts.checks import check_choice
from nemo_dreamfusion.parts.ranks import is_global_rank_zero

LEVELS = ('debug', 'info', 'warning', 'error')
PACKAGE = Path(__file__).resolve().parents[1]
EXPECTED = 'but it already exists'  # the run's folder: each run is warned of it by exp_manager
_PYTHONS_OWN = warnings.formatwarning


def configure_logging(level: str) -> None:
    """Set the level of NeMo's, Lightning's and OneLogger's messages; below ``info``, Python's warnings go too.

    Our own, by the logger ``nemo_dreamfusion`` or as warnings of that package, are always shown: once, by the first of
    several processes; the others show errors only.
    """
    check_choice('log_level', level, LEVELS)
    nemo_logging.captureWarnings(False)  # NeMo drops each UserWarning as soon as any filter ignores some of them
    warnings.formatwarning = format_warning
    number = getattr(logging, level.upper())
    nemo_logging.setLevel(number)
    for name in ('lightning.pytorch', 'lightning.fabric', 'nv_one_logger', 'httpx'):
        logging.getLogger(name).setLevel(number)
    if not is_global_rank_zero():
        logging.getLogger('nemo_dreamfusion').setLevel(logging.ERROR)
        warnings.filterwarnings('ignore', module=r'nemo_dreamfusion(\..*)?$')
    if number > logging.INFO:
        warnings.filterwarnings('ignore', module=r'(lightning|torch|nemo|nv_one_logger)(\..*)?$')
        logging.getLogger('nemo_logger').addFilter(is_news)


@contextmanager
def log_files_of_a_run() -> Iterator[None]:
    """Close the log files that NeMo and Lightning are given meanwhile, so that no later message of a program goes there."""
    loggers = [logging.getLogger(name) for name in ('nemo_logger', 'lightning.pytorch')]
    before = {handler for logger in loggers for handler in logger.handlers}
    try:
        yield
    finally:
        for logger in loggers:
            for handler in set(logger.handlers) - before:
                if isinstance(handler, logging.FileHandler):
                    logger.removeHandler(handler)
                    handler.close()


def format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Return one line for a warning of this package, which speaks to its user; any other as Python shows it."""
    if Path(filename).is_relative_to(PACKAGE):
        return f'warning: {message}\n'
    return _PYTHONS_OWN(message, category, filename, lineno, line)


def is_news(record: logging.LogRecord) -> bool:
    """Return whether a message of NeMo says anything about this run."""
    return EXPECTED not in record.getMessage()
