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

"""The viewer's server answers pages of this machine only, reads no file but its own page, and opens no tunnel."""

import socket

import pytest
from refusals import refusal

pytest.importorskip('viser', reason='the extra "viewer" is not installed')
from viewer.socket_page import SocketPage, listening_addresses, request, wait_for  # noqa: E402
from websockets.exceptions import InvalidStatus  # noqa: E402

from nemo_dreamfusion.viewer.server import check_port, close_server, is_allowed, open_server  # noqa: E402

pytestmark = pytest.mark.unit

LOOPBACK = '0100007F'  # 127.0.0.1 in /proc/net/tcp


@pytest.fixture(scope='module')
def server():
    made = open_server(0, 'test')
    yield made
    close_server(made)


@pytest.fixture(scope='module')
def url(server):
    return f'http://127.0.0.1:{server.get_port()}'


def test_it_listens_on_the_loopback_only(server):
    assert listening_addresses(server.get_port()) == {LOOPBACK}


def test_the_page_is_one_file(url):
    answer = request(url, '/')
    assert answer.startswith(b'HTTP/1.1 200') and b'<!doctype html>' in answer.lower()


@pytest.mark.parametrize(
    'path',
    [
        '/../../../../../../etc/passwd',
        '/..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc/passwd',
        '/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd',
        '/..\\..\\..\\..\\..\\..\\etc\\passwd',
        '//etc/passwd',
        '/etc/passwd',
        '/%00/etc/passwd',
        '/../_viser.py',
        'file:///etc/passwd',
        'http://127.0.0.1/../../../../../../etc/passwd',
        '/?/../../../../etc/passwd',
    ],
)
def test_no_request_reads_a_file_outside_of_the_page(url, path):
    answer = request(url, path)
    assert b'root:' not in answer and b'import ' not in answer
    assert answer.startswith((b'HTTP/1.1 4', b'HTTP/1.1 500')) or b'<!doctype html>' in answer.lower()


@pytest.mark.parametrize('host', ['evil.example', 'evil.example:80', '127.0.0.1.evil.example', '[::1]', '0.0.0.0'])
def test_another_name_for_this_machine_is_refused(url, host):
    assert request(url, '/', host=host).startswith(b'HTTP/1.1 403')


@pytest.mark.parametrize('origin', ['https://evil.example', 'null', 'http://127.0.0.1:1', 'http://localhost'])
def test_a_page_of_another_site_is_refused(url, origin):
    with pytest.raises(InvalidStatus) as failed:
        SocketPage(url, origin=origin)
    assert failed.value.response.status_code == 403


def test_its_own_page_and_a_program_are_let_in(url):
    for origin in (url, None):
        SocketPage(url, origin=origin).close()
    assert is_allowed('localhost:9000', 'http://localhost:9000')  # through ssh -L 9000:localhost:8080
    assert not is_allowed(None, None) and not is_allowed('localhost', 'twice')


def test_two_origins_are_none(url):
    upgrade = (
        'Upgrade: websocket',
        'Connection: Upgrade',
        'Sec-WebSocket-Version: 13',
        'Sec-WebSocket-Key: ' + 'A' * 22 + '==',
    )
    assert request(url, '/', headers=(*upgrade, f'Origin: {url}')).startswith(b'HTTP/1.1 101')
    twice = (*upgrade, f'Origin: {url}', 'Origin: https://evil.example')
    assert request(url, '/', headers=twice).startswith(b'HTTP/1.1 403')


def test_no_page_can_ask_for_a_public_tunnel(server, url, monkeypatch):
    asked = []
    monkeypatch.setattr('viser._viser.ViserTunnel', lambda *_: asked.append(1))
    page = SocketPage(url)
    page.send('ShareUrlRequest')
    page.turn(50)
    wait_for(lambda: any(abs(c.camera.position[0]) > 1 for c in server.get_clients().values()))  # both were read
    assert (asked, server._share_tunnel, server.request_share_url()) == ([], None, None)
    page.close()


def test_a_port_that_is_taken_is_refused(server):
    port = server.get_port()
    with refusal('viewer.port', port, 'viewer.port=0'):
        open_server(port, 'second')
    with socket.socket() as other:
        other.bind(('127.0.0.1', 0))
        other.listen()
        with refusal('viewer.port', other.getsockname()[1], 'viewer.port=0'):
            check_port(other.getsockname()[1])


def test_the_server_says_nothing_and_leaves_no_patch_behind(capfd):
    import websockets.asyncio.server as module

    before = module.serve
    close_server(open_server(0, 'quiet'))
    assert capfd.readouterr() == ('', '') and module.serve is before
