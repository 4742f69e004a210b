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

"""Make a command independent of the locale and the terminal: texts are UTF-8, and printing cannot fail a run."""

from __future__ import annotations

import locale
import os
import sys
from typing import Any, TextIO


class SafeStream:
    """A text stream whose writes never raise: signs it cannot encode are escaped, and a reader that is gone is ignored."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write what can be written, and return the length of ``text``."""
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding or 'ascii'
            self._stream.write(text.encode(encoding, 'backslashreplace').decode(encoding))
        except (OSError, ValueError):  # a closed pipe, a full disk, a closed terminal, a closed stream
            pass
        return len(text)

    def flush(self) -> None:
        """Flush, as far as there is somebody who reads."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            pass


def prepare_terminal() -> None:
    """Start this process again in Python's UTF-8 mode where the locale has another encoding, and make printing safe.

    Raises:
        ValueError: for an argument that is not UTF-8.
    """
    if locale.getpreferredencoding(False).lower() not in ('utf-8', 'utf8'):
        os.execve(sys.executable, *utf8_command(sys.orig_argv))
    make_printing_safe()
    for argument in sys.argv[1:]:
        if any('\ud800' <= sign <= '\udfff' for sign in argument):
            shown = argument.encode('ascii', 'backslashreplace').decode()
            raise ValueError(f'The argument {shown} holds bytes that are not UTF-8: type it in a UTF-8 terminal.')


def utf8_command(command: list[str]) -> tuple[list[bytes], dict[str, str]]:
    """Return arguments and environment that run ``command`` in UTF-8 mode, with the encoding of the terminal kept.

    Lightning's processes, which inherit the environment, are in that mode too.
    """
    arguments = [sys.executable, '-X', 'utf8', *command[1:]]
    encoding = getattr(sys.stdout, 'encoding', None) or 'ascii'
    environment = {'PYTHONIOENCODING': f'{encoding}:backslashreplace', **os.environ, 'PYTHONUTF8': '1'}
    return [argument.encode('utf-8', 'surrogateescape') for argument in arguments], environment


def make_printing_safe() -> None:
    """Wrap ``sys.stdout`` and ``sys.stderr`` in a :class:`SafeStream`; a closed one goes nowhere."""
    for name in ('stdout', 'stderr'):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, 'w', encoding='utf-8')
        if not isinstance(stream, SafeStream):
            setattr(sys, name, SafeStream(stream))
