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

"""Unwrap a mesh with xatlas, in a process of its own: it cannot be interrupted, may take hours and may die.

The process is this file, run as a module on an .npz (the one file that imports xatlas).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from nemo_dreamfusion.parts.optional import available, require

# Charts grow in a time that rises faster than the faces: 8 s for 30,000 at once, 2 s in parts. How well they fill the
# square is luck, so that both are tried until one is good.
_FACES_OF_A_PART = (1000, 2000)
_GOOD_USE = 0.62
_RESOLUTION = 512  # texels of the packing's own raster
_GUTTER = 1  # of these, free around each chart; more with bilinear


class UnwrapError(RuntimeError):
    """xatlas gave no atlas; the message, a clause, says why."""


def can_unwrap() -> bool:
    """Tell whether xatlas is installed."""
    return available('xatlas')


def unwrap(vertices: np.ndarray, faces: np.ndarray, *, seconds: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut the surface into charts and pack them into the unit square.

    Args:
        vertices: [V, 3].
        faces: [F, 3].
        seconds: after which the process is killed.

    Returns:
        The vertex of each new one [W], which there are more of along the seams; new faces [F, 3] in the old order; uv
        [W, 2] in [0, 1].

    Raises:
        UnwrapError: when it takes too long, dies, or gives something that is no atlas of these faces.
    """
    with tempfile.TemporaryDirectory(prefix='nemo-dreamfusion-') as folder:
        given, made = Path(folder, 'mesh.npz'), Path(folder, 'atlas.npz')
        np.savez(given, vertices=vertices.astype(np.float32), faces=faces.astype(np.uint32))
        _run([str(given), str(made), str(int(np.ceil(seconds)) + 1)], seconds)
        try:
            with np.load(made) as atlas:
                source, corners, uv = atlas['source'], atlas['faces'], atlas['uv']
        except (OSError, ValueError, KeyError) as error:
            raise UnwrapError('it wrote no atlas') from error
    fits = corners.shape == faces.shape and len(source) == len(uv) and (source[corners] == faces).all()
    if not fits or not np.isfinite(uv).all() or uv.min() < 0 or uv.max() > 1:
        raise UnwrapError('its atlas is not one of this mesh')
    return source, corners, uv


def _run(arguments: list[str], seconds: float) -> None:
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, (root, os.environ.get('PYTHONPATH'))))}
    command = [sys.executable, '-P', '-m', __name__, *arguments]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:  # the process is killed by now
        raise UnwrapError(f'it took more than {seconds:g} s') from error
    except OSError as error:
        raise UnwrapError(f'its process did not start: {error.strerror}') from error
    if done.returncode:
        lines = done.stderr.decode(errors='replace').strip().splitlines()
        ended = f'signal {-done.returncode}' if done.returncode < 0 else f'status {done.returncode}'
        raise UnwrapError(f'its process ended with {ended}' + (f' ({lines[-1]})' if lines else ''))


def uv_use(uv: np.ndarray, faces: np.ndarray) -> float:
    """Return the share of the unit square that the triangles [F, 3] of uv [W, 2] cover.

    >>> uv_use(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.array([[0, 1, 2]]))
    0.5
    """
    a, b, c = uv[faces].astype(np.float64).transpose(1, 0, 2)
    (x, y), (z, w) = (b - a).T, (c - a).T
    return float(np.abs(x * w - y * z).sum() / 2)


def _unwrap_well(vertices: np.ndarray, faces: np.ndarray) -> dict[str, np.ndarray]:
    best, most = {}, -1.0
    for size in _FACES_OF_A_PART:
        atlas = _unwrap_here(vertices, faces, size)
        use = uv_use(atlas['uv'], atlas['faces'])
        if use > most:
            best, most = atlas, use
        if use >= _GOOD_USE or len(faces) <= size:
            break
    return best


def _unwrap_here(vertices: np.ndarray, faces: np.ndarray, size: int) -> dict[str, np.ndarray]:
    xatlas = require('xatlas', extra='assets', reason='the atlas of a texture is made with it')
    atlas = xatlas.Atlas()
    parts = _split(vertices[faces].mean(1), np.arange(len(faces)), size)
    numbers = []
    for part in parts:
        used, renumbered = np.unique(faces[part], return_inverse=True)
        atlas.add_mesh(vertices[used], renumbered.reshape(-1, 3).astype(np.uint32))
        numbers.append(used)
    pack = xatlas.PackOptions()
    pack.resolution, pack.padding, pack.bilinear, pack.bruteForce = _RESOLUTION, _GUTTER, True, True
    atlas.generate(xatlas.ChartOptions(), pack)
    source, corners, uv, count = [], np.zeros(faces.shape, np.int64), [], 0
    for i, part in enumerate(parts):
        vertex, index, place = atlas[i]
        source.append(numbers[i][vertex])
        corners[part] = index.astype(np.int64) + count
        uv.append(place)
        count += len(vertex)
    return {'source': np.concatenate(source).astype(np.int64), 'faces': corners, 'uv': np.concatenate(uv)}


def _split(centres: np.ndarray, part: np.ndarray, size: int) -> list[np.ndarray]:
    """Halve the faces across their longest extent until no part has more than ``size``."""
    if len(part) <= size:
        return [part]
    axis = np.ptp(centres[part], axis=0).argmax()
    order = part[np.argsort(centres[part, axis], kind='stable')]
    half = len(order) // 2
    return _split(centres, order[:half], size) + _split(centres, order[half:], size)


def _main(given: str, made: str, seconds: str) -> None:
    """Read a mesh, write its atlas; end by itself where nobody is left to end it."""
    if hasattr(signal, 'alarm'):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(seconds))
    with np.load(given) as mesh:
        atlas = _unwrap_well(mesh['vertices'], mesh['faces'])
    np.savez(made, source=atlas['source'], faces=atlas['faces'], uv=atlas['uv'])


if __name__ == '__main__':
    _main(*sys.argv[1:])
