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

"""viser's server on this machine's own address, and nothing else (the one file that imports viser).

What viser does by itself and is not done here: listen on every address, take the next port when one is taken, accept a page
of another site (``Origin``) or of another name (``Host``, DNS rebinding), and open a public tunnel when a page asks for one.
"""

from __future__ import annotations

import contextlib
import functools
import http
import importlib
import io
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from nemo_dreamfusion.parts.checks import refuse
from nemo_dreamfusion.viewer.options import HOST, require_viser

LOCAL_NAMES = ('127.0.0.1', 'localhost')
_starting = threading.Lock()


def open_server(port: int, label: str) -> Any:
    """Return a running ``viser.ViserServer`` that only pages of this machine reach.

    Args:
        port: 0: any that is free.
        label: title of the panel.

    Raises:
        ValueError: when the port is taken.
        MissingPackageError: without viser.
    """
    viser = require_viser()
    check_port(port)
    warnings.filterwarnings('ignore', message='Queued a .* on a closed connection')  # a page that has just gone
    with _starting, _guarded_websockets(), _quiet():
        server = _local_class(viser)(host=HOST, port=port, label=label, verbose=False)
    if port and server.get_port() != port:  # somebody took it a moment ago, and viser the next one
        close_server(server)
        _refuse_port(port)
    server.gui.configure_theme(show_logo=False, show_share_button=False)
    server.scene.set_up_direction('+y')
    server.scene.configure_environment_map(hdri=None)
    return server


def close_server(server: Any) -> None:
    """End the server and its connections."""
    with _quiet():
        server.stop()


def check_port(port: int) -> None:
    """Refuse a port that another program has.

    Raises:
        ValueError: naming it.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            _refuse_port(port)


def is_allowed(host: str | None, origin: str | None) -> bool:
    """Return whether a request comes from this machine's own page, or from a program that is no browser.

    >>> is_allowed('127.0.0.1:8080', 'http://127.0.0.1:8080'), is_allowed('127.0.0.1:8080', None)
    (True, True)
    >>> is_allowed('evil.example', None), is_allowed('127.0.0.1:8080', 'https://evil.example')
    (False, False)
    """
    if host is None or urlsplit(f'//{host}').hostname not in LOCAL_NAMES:
        return False
    return origin is None or origin == f'http://{host}'


def _refuse_port(port: int) -> None:
    refuse('viewer.port', port, 'a port that nobody has', 'Set viewer.port=0 for any that is free.')


def _local_class(viser: Any) -> type:
    class LocalServer(viser.ViserServer):
        """A server that never opens a public tunnel, whoever asks."""

        def request_share_url(self, verbose: bool = True) -> None:
            return None

    return LocalServer


@contextlib.contextmanager
def _guarded_websockets() -> Iterator[None]:
    """Let a server that is started within refuse foreign pages: viser hands its own answers to requests only."""
    module = importlib.import_module('websockets.asyncio.server')
    serve = module.serve

    @functools.wraps(serve)
    def guarded(*arguments: Any, process_request: Callable[[Any, Any], Any], **options: Any) -> Any:
        def answer(connection: Any, request: Any) -> Any:
            headers = request.headers
            if not is_allowed(_only(headers, 'Host'), _only(headers, 'Origin')):
                return connection.respond(http.HTTPStatus.FORBIDDEN, 'Only pages of this machine may look.\n')
            return process_request(connection, request)

        return serve(*arguments, process_request=answer, **options)

    module.serve = guarded  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.serve = serve  # type: ignore[attr-defined]


def _only(headers: Any, name: str) -> str | None:
    """Return the value of a header; one that comes twice is none of ours."""
    values = headers.get_all(name)
    return None if not values else values[0] if len(values) == 1 else 'twice'


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop what viser prints when it starts and stops; we say it in one line."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
