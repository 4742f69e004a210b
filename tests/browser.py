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

"""A real headless Chromium, driven over its DevTools protocol: pages, the mouse, screenshots and every request."""

import base64
import io
import json
import shutil
import subprocess
import time

import numpy as np
import pytest
from PIL import Image

NAMES = ('chromium-headless-shell', 'chromium', 'chromium-browser', 'google-chrome')
FLAGS = [
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--use-angle=swiftshader',
    '--enable-unsafe-swiftshader',
    '--disable-background-networking',
    '--no-first-run',
    '--hide-scrollbars',
    '--remote-debugging-port=0',
    '--window-size=900,600',
]


class Browser:
    """One browser with one page.

    Args:
        folder: for its profile.

    Attributes:
        requests: the address of everything that the page asked for, websockets included.
    """

    def __init__(self, folder):
        connect = pytest.importorskip(
            'websockets.sync.client', reason='websockets (extra "viewer") is missing'
        ).connect
        program = next((path for name in NAMES if (path := shutil.which(name))), None)
        if program is None:
            pytest.skip('no Chromium on this machine (Debian: apt-get install chromium-headless-shell)')
        command = [program, *FLAGS, f'--user-data-dir={folder}', 'about:blank']
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.requests, self._events, self._number = [], [], 0
        self._socket = connect(self._find_page(folder), max_size=None, proxy=None)
        for domain in ('Page', 'Network', 'Runtime'):
            self.call(f'{domain}.enable')

    def call(self, method, **parameters):
        """Call a method of the protocol and return its result."""
        self._number += 1
        self._socket.send(json.dumps({'id': self._number, 'method': method, 'params': parameters}))
        while (answer := self._receive()).get('id') != self._number:
            pass
        assert 'error' not in answer, answer
        return answer['result']

    def open(self, address, before=''):
        """Go to a page; ``before`` is a script that runs ahead of its own."""
        if before:
            self.call('Page.addScriptToEvaluateOnNewDocument', source=before)
        self.call('Page.navigate', url=address)

    def run(self, script):
        """Return the value of an expression, which may be a promise."""
        answer = self.call('Runtime.evaluate', expression=script, awaitPromise=True, returnByValue=True)
        assert 'exceptionDetails' not in answer, answer['exceptionDetails']
        return answer['result'].get('value')

    def wait_for(self, script, seconds=60):
        """Wait until an expression is true, and return it."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < end, f'{script} did not become true'
            time.sleep(0.1)
        return value

    def screenshot(self, path=None):
        """Return what the page shows, [H, W, 3] uint8."""
        data = base64.b64decode(self.call('Page.captureScreenshot', format='png')['data'])
        if path is not None:
            path.write_bytes(data)
        return np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))

    def drag(self, start, end, steps=8):
        """Pull the mouse from one place to another, pixels."""
        self._mouse('mousePressed', start)
        for i in range(1, steps + 1):
            share = i / steps
            self._mouse('mouseMoved', [a + share * (b - a) for a, b in zip(start, end)])
            time.sleep(0.03)
        self._mouse('mouseReleased', end)

    def click_on(self, text):
        """Click on the button or tab that says ``text``."""
        place = self.wait_for(
            "(() => { for (const e of document.querySelectorAll('*')) { const r = e.getBoundingClientRect(); "
            f"if (!e.children.length && e.textContent.trim() == {json.dumps(text)} && r.width) "
            'return [r.x + r.width / 2, r.y + r.height / 2]; } return null; })()'
        )
        self._mouse('mousePressed', place)
        self._mouse('mouseReleased', place)

    def close(self):
        """End the browser."""
        self._socket.close()
        self._process.terminate()
        self._process.wait(20)

    def _mouse(self, kind, place):
        self.call(
            'Input.dispatchMouseEvent', type=kind, x=place[0], y=place[1], button='left', buttons=1, clickCount=1
        )

    def _receive(self):
        message = json.loads(self._socket.recv(timeout=60))
        if message.get('method') == 'Network.requestWillBeSent':
            self.requests.append(message['params']['request']['url'])
        elif message.get('method') == 'Network.webSocketCreated':
            self.requests.append(message['params']['url'])
        return message

    def _find_page(self, folder):
        import urllib.request

        ports = folder / 'DevToolsActivePort'
        end = time.monotonic() + 60
        while not (ports.is_file() and ports.read_text().count('\n')):
            assert time.monotonic() < end and self._process.poll() is None, 'the browser did not start'
            time.sleep(0.1)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f'http://127.0.0.1:{ports.read_text().splitlines()[0]}/json/list', timeout=30) as answer:
            pages = json.load(answer)
        return next(page['webSocketDebuggerUrl'] for page in pages if page['type'] == 'page')
