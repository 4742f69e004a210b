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

"""A page of the viewer without a browser: a websocket that speaks viser's protocol, and raw requests."""

import io
import math
import socket
import threading
import time
from urllib.parse import urlsplit

import msgspec
import numpy as np
import viser
import zstandard
from PIL import Image
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

FOV_RAD = math.radians(36)


class SocketPage:
    """Connects, tells where its camera stands, and keeps what it is sent.

    Attributes:
        pictures: those of the background, [H, W, 3] uint8; None where it was taken away.
        controls: label -> the message that made the control.
        values: uuid of a control -> its last value.
    """

    def __init__(self, url, *, azimuth_deg=0.0, size=128, origin=None):
        self.pictures, self.controls, self.values, self.messages = [], {}, {}, []
        self.size = size
        address = f'ws://{urlsplit(url).netloc}'
        protocol = f'viser-v{viser.__version__}'
        self._socket = connect(address, subprotocols=[protocol], max_size=None, origin=origin, proxy=None)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.turn(azimuth_deg)

    def turn(self, azimuth_deg, distance=3.7, fov_rad=FOV_RAD):
        """Stand at an azimuth on the horizon and look at the origin."""
        half = math.radians(azimuth_deg) / 2  # about y; on top of it half a turn about x, since viser's y points down
        wxyz = (0.0, math.cos(half), 0.0, -math.sin(half))
        position = (distance * math.sin(2 * half), 0.0, distance * math.cos(2 * half))
        self.send(
            'ViewerCameraMessage',
            wxyz=wxyz,
            position=position,
            fov=fov_rad,
            near=0.01,
            far=100.0,
            image_height=self.size,
            image_width=self.size,
            look_at=(0.0, 0.0, 0.0),
            up_direction=(0.0, 1.0, 0.0),
        )

    def send(self, kind, **fields):
        self._socket.send(msgspec.msgpack.encode({'type': kind, **fields}))

    def set(self, label, value):
        """Move a control."""
        self.send('GuiUpdateMessage', uuid=self.control(label)['uuid'], updates={'value': value})

    def click(self, label):
        self.set(label, True)

    def control(self, label):
        wait_for(lambda: label in self.controls)
        return self.controls[label]

    def text(self, label):
        """What a field says."""
        return self.values.get(self.control(label)['uuid'], '')

    def wait_for_picture(self, height=None, after=0, seconds=20):
        """The first picture of that height (None: of any) behind the first ``after``."""

        def found():
            shown = [p for p in self.pictures[after:] if p is not None]
            return [p for p in shown if height is None or len(p) == height]

        wait_for(found, seconds)
        return found()[0]

    def close(self):
        self._socket.close()
        self._reader.join(5)

    def _read(self):
        try:
            for raw in self._socket:
                size, compressed = (int.from_bytes(raw[i : i + 8], 'little') for i in (0, 8))
                inner = zstandard.ZstdDecompressor().decompress(raw[16 : 16 + compressed], max_output_size=size)
                for message in msgspec.msgpack.decode(inner)['messages']:
                    self._take(message)
        except ConnectionClosed:
            pass

    def _take(self, message):
        kind = message['type']
        self.messages.append(kind)
        if kind == 'BackgroundImageMessage':
            data = message['rgb_data']
            self.pictures.append(None if data is None else np.asarray(Image.open(io.BytesIO(data)).convert('RGB')))
        elif kind.startswith('Gui') and 'props' in message and 'label' in message['props']:
            self.controls[message['props']['label']] = message
            self.values[message['uuid']] = message.get('value')
        elif kind == 'GuiUpdateMessage' and 'value' in message['updates']:
            self.values[message['uuid']] = message['updates']['value']


def wait_for(condition, seconds=20):
    """Wait until ``condition()`` is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'it did not happen in time'
        time.sleep(0.02)


def request(url, path, *, host=None, headers=()):
    """What the server answers to a raw request line, as bytes; of an open websocket the first of it."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
        lines = [f'GET {path} HTTP/1.1', f'Host: {host or place.netloc}', 'Connection: close', *headers]
        connection.sendall('\r\n'.join([*lines, '', '']).encode('latin-1'))
        answer = connection.recv(65536)
        if answer.startswith(b'HTTP/1.1 101'):
            return answer
        return answer + b''.join(iter(lambda: connection.recv(65536), b''))


def listening_addresses(port):
    """The addresses on which something listens on a port, as /proc has them."""
    found = set()
    for table in ('/proc/net/tcp', '/proc/net/tcp6'):
        with open(table) as file:
            rows = [line.split() for line in file.readlines()[1:]]
        found |= {row[1].split(':')[0] for row in rows if row[3] == '0A' and int(row[1].split(':')[1], 16) == port}
    return found
