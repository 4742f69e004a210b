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

"""A repository of the hub, by a server of its interface on this machine: what is downloaded, and what happens without it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
from refusals import NO_VALUE, refusal
from safetensors.torch import load_file, save_file
from small_diffusion import build_folder

from nemo_dreamfusion.checkpoints.convert import convert
from nemo_dreamfusion.checkpoints.diffusers_format import DiffusersCheckpoint

ID, COMMIT = 'somebody/sd', '0' * 40
UNET = 'unet/diffusion_pytorch_model'
TEMPLATE = '{repo_id}/resolve/{revision}/{filename}'


class Hub(ThreadingHTTPServer):
    """Serves the files of a folder as the repository :data:`ID`; ``downloaded`` are those that were asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.downloaded = folder, []
        super().__init__(('127.0.0.1', 0), Handler)

    @property
    def address(self) -> str:
        return f'http://127.0.0.1:{self.server_port}'


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        files = sorted(p for p in self.server.folder.rglob('*') if p.is_file())
        names = [p.relative_to(self.server.folder).as_posix() for p in files]
        if path.startswith(f'/api/models/{ID}/tree/'):
            tree = [
                {'type': 'file', 'path': n, 'size': p.stat().st_size, 'oid': '1' * 40} for n, p in zip(names, files)
            ]
            self.send(200, json.dumps(tree).encode(), with_body)
        elif path.startswith(f'/api/models/{ID}'):
            info = {'id': ID, 'sha': COMMIT, 'siblings': [{'rfilename': name} for name in names]}
            self.send(200, json.dumps(info).encode(), with_body)
        elif path.startswith(f'/{ID}/resolve/') and path.split('/', 5)[5] in names:
            name = path.split('/', 5)[5]
            content = (self.server.folder / name).read_bytes()
            if with_body:
                self.server.downloaded.append(name)
            headers = {'ETag': f'"{hashlib.sha1(content).hexdigest()}"', 'X-Repo-Commit': COMMIT}
            self.send(200, content, with_body, **headers)
        else:
            self.send(404, b'', with_body, **{'X-Error-Code': 'RepoNotFound'})

    def send(self, status: int, content: bytes, with_body: bool, **headers: str) -> None:
        self.send_response(status)
        for key, value in {'Content-Length': str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[Hub]:
    server = Hub(build_folder(tmp_path / 'repository'))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', server.address)
    monkeypatch.setattr(
        'huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE',
        server.address + '/{repo_id}/resolve/{revision}/{filename}',
    )
    monkeypatch.setattr('huggingface_hub.hf_api.api.endpoint', server.address)
    yield server
    server.shutdown()
    server.server_close()


def add_half(folder: Path) -> None:
    tensors = {key: value.half() for key, value in load_file(folder / f'{UNET}.safetensors').items()}
    save_file(tensors, folder / f'{UNET}.fp16.safetensors', metadata={'format': 'pt'})


def test_a_check_downloads_no_weights_and_a_network_its_own_only(hub):
    add_half(hub.folder)
    checkpoint = DiffusersCheckpoint(ID)
    checkpoint.check()
    checkpoint.tokenizer()
    assert not [name for name in hub.downloaded if name.endswith('.safetensors')]
    checkpoint.unet(torch.float32)
    assert [name for name in hub.downloaded if name.endswith('.safetensors')] == [f'{UNET}.safetensors']
    assert len(hub.downloaded) == len(set(hub.downloaded))


@pytest.mark.parametrize('asked', [None, 'fp16'])
def test_a_variant_is_downloaded_where_it_is_and_plain_files_elsewhere(hub, asked):
    add_half(hub.folder)
    if asked is None:  # then the only one there is
        (hub.folder / f'{UNET}.safetensors').unlink()
    checkpoint = DiffusersCheckpoint(ID, variant=asked)
    assert checkpoint.unet(None).dtype == torch.float16 and checkpoint.vae(None).dtype == torch.float32
    assert f'{UNET}.fp16.safetensors' in hub.downloaded and f'{UNET}.safetensors' not in hub.downloaded


def test_a_repository_that_lacks_a_part_and_one_that_is_not_there_are_refused(hub):
    (hub.folder / 'vae' / 'config.json').unlink()
    with refusal('model.guidance.source', ID, 'vae/config.json'):
        DiffusersCheckpoint(ID).check()
    with refusal('nobody/nothing', NO_VALUE, 'model.guidance.source'):
        DiffusersCheckpoint('nobody/nothing').check()


def test_without_the_hub_the_cache_serves(hub, tmp_path, monkeypatch):
    convert(ID, str(tmp_path / 'x.nemo'))
    hub.shutdown()
    hub.server_close()
    for options in ({}, {'local_files_only': True}):
        checkpoint = DiffusersCheckpoint(ID, **options)
        checkpoint.check()
        checkpoint.unet(torch.float32)
    with refusal('nobody/nothing', NO_VALUE, 'model.guidance.source'):
        DiffusersCheckpoint('nobody/nothing').check()
