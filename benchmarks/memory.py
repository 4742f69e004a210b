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

"""Measure the peak memory of a process that makes three training steps and renders a large picture.

    python benchmarks/memory.py torchngp_small --side 512

The first argument is a choice of conf/model/nerf. Each measurement is a process of its own, because a process has one peak.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import torch


def peak_mib(device: torch.device) -> float:
    """Return this process's peak so far, torch included; on CUDA that of the device's tensors.

    On Linux getrusage starts from the peak of the parent process, so /proc/self/status is read first.
    """
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path('/proc/self/status')
    found = re.search(r'VmHWM:\s*(\d+) kB', status.read_text(encoding='utf-8')) if status.exists() else None
    if found:
        return int(found[1]) / 1024
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / 2**20 if sys.platform == 'darwin' else size / 1024


def measure(nerf: str, side: int, threads: int) -> dict[str, float]:
    """Run this script as a process of its own; return the peaks that it prints, in MiB."""
    command = [sys.executable, __file__, nerf, '--side', str(side), '--threads', str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, encoding='utf-8')
    if done.returncode != 0:
        raise SystemExit(f'{" ".join(command)}\n{done.stderr}')
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('nerf', help='a choice of nemo_dreamfusion/conf/model/nerf')
    parser.add_argument('--side', type=int, default=512, help='of the picture, pixels')
    parser.add_argument('--threads', type=int, default=0, help='0: what torch takes')
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    import scene  # not for those who only want peak_mib

    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    step = scene.Step(device, shading='lambertian', overrides=(f'model/nerf={options.nerf}', *scene.WITH_NORMALS))
    peaks = {'before': peak_mib(device)}
    for _ in range(3):
        step()
    peaks['after 64 x 64 training steps'] = peak_mib(device)
    step.evaluate(options.side)
    peaks['after an evaluation render'] = peak_mib(device)
    print(json.dumps(peaks))


if __name__ == '__main__':
    main()
