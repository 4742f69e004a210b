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

"""Training steps at the size of Stable Diffusion 2.1 (base) with random weights, on a GPU: eager, compiled, CUDA graphs.

    python benchmarks/full_size.py --out benchmarks/results
    python benchmarks/full_size.py --small --ways eager --repeats 2    # a rehearsal on a CPU

A step is that of nemo_dreamfusion/conf/dreamfusion-sd.yaml with Adan: 64 x 64 pixels, full-size field, bf16-mixed,
float16 guidance weights, in the latent phase (UNet only) and in the image phase (resized to 512 x 512, through the VAE
encoder and back).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import Results, finish
from profile_step import shares
from report import file_stem
from scene import Step
from torch import Tensor, nn

from nemo_dreamfusion.modules.guidance.networks.options import NetworkOptions
from nemo_dreamfusion.modules.guidance.networks.precision import fast_dtype
from nemo_dreamfusion.modules.guidance.stable_diffusion import StableDiffusionGuidance
from nemo_dreamfusion.parts.files import write_atomically
from nemo_dreamfusion.parts.types import CameraBatch, PromptSet, RenderOutput
from nemo_dreamfusion.pocket.training.networks import build_scheduler, build_text_encoder, build_tokenizer

# name: (compiles the networks, records CUDA graphs)
WAYS = {'eager': (False, False), 'CUDA graphs': (False, True), 'compiled': (True, False), 'both': (True, True)}
UNET = {
    'sample_size': 64,
    'block_out_channels': (320, 640, 1280, 1280),
    'attention_head_dim': (5, 10, 20, 20),
    'cross_attention_dim': 1024,
    'use_linear_projection': True,
}
SMALL_UNET = UNET | {'sample_size': 8, 'block_out_channels': (32,) * 4, 'attention_head_dim': (4,) * 4}
VAE = {'sample_size': 512, 'block_out_channels': (128, 256, 512, 512), 'layers_per_block': 2}
SMALL_VAE = VAE | {'sample_size': 64, 'block_out_channels': (32,) * 4}
TFLOP = {'UNet': 1.61, 'VAE encoder': 2.27}  # counted: of a guidance pair, and of an image with its gradient
WARM_UP = 20  # compilation, recording, and the steps whose samples are counted: SampleBudget.KNOWN and two
TOLERANCE = 0.02  # of the losses between two ways: they are sums of float16 networks' differences
PHASES = ('latent', 'image')


class RandomStableDiffusion:
    """A Checkpoint of random weights in the sizes of Stable Diffusion 2.1."""

    name, local_files_only = 'random weights', True

    def __init__(self, device: torch.device, *, small: bool) -> None:
        self.device, self.small = device, small
        self.words = build_tokenizer(['a', 'hamburger', 'front', 'side', 'back', 'overhead', 'view', ','])

    def tokenizer(self) -> Any:
        return self.words

    def text_encoder(self, dtype: torch.dtype) -> nn.Module:
        return self._build(lambda: build_text_encoder(self.words, UNET['cross_attention_dim']), dtype)

    def unet(self, dtype: torch.dtype) -> nn.Module:
        from diffusers import UNet2DConditionModel

        return self._build(lambda: UNet2DConditionModel(**(SMALL_UNET if self.small else UNET)), dtype)

    def vae(self, dtype: torch.dtype) -> nn.Module:
        from diffusers import AutoencoderKL

        levels = len(VAE['block_out_channels'])
        blocks = {
            'down_block_types': ('DownEncoderBlock2D',) * levels,
            'up_block_types': ('UpDecoderBlock2D',) * levels,
        }
        return self._build(lambda: AutoencoderKL(**(SMALL_VAE if self.small else VAE), **blocks), dtype)

    def _build(self, make: Callable[[], nn.Module], dtype: torch.dtype) -> nn.Module:
        torch.manual_seed(0)
        with self.device:
            return make().to(dtype)

    def scheduler_config(self) -> dict[str, Any]:
        return dict(build_scheduler().config)

    def context_length(self) -> int:
        return 77

    def attends_unnormalised(self) -> bool:
        return False

    def is_openai_clip(self) -> bool:
        return False

    def release(self) -> None:
        pass


class FullSizeStep(Step):
    """A step of dreamfusion-sd.yaml with a guidance of random weights."""

    def __init__(self, device: torch.device, guidance: StableDiffusionGuidance, *, latent: bool) -> None:
        super().__init__(device, shading='albedo', recipe='dreamfusion-sd')
        self.guidance, self.latent = guidance, latent

    def __call__(self) -> Results:
        """Make a step in bf16-mixed precision."""
        with torch.autocast(self.device.type, torch.bfloat16):
            return super().__call__()

    def score(self, render: RenderOutput, cameras: CameraBatch) -> Tensor:
        """Return the loss of the guidance."""
        with torch.profiler.record_function('guidance'):
            options = {'step': self.step, 'progress': 0.3, 'latent': self.latent, 'generator': self.generator}
            loss = self.guidance.loss(render, cameras, **options).loss
        self.loss = loss.detach()
        return loss


def time_calls(run: Callable[[], object], repeats: int, calls: int = 10) -> float:
    """Return the median over repeats of the mean seconds of some calls in a row; wait for the device after the last only."""
    times = []
    for _ in range(repeats):
        finish()
        started = time.perf_counter()
        for _ in range(calls):
            run()
        finish()
        times.append((time.perf_counter() - started) / calls)
    return statistics.median(times)


def measure_ceilings(device: torch.device) -> dict[str, float]:
    """Measure what the device can do: TFLOP/s of a bfloat16 product, TB/s of a copy (read and written)."""
    side, gigabytes = (8192, 4.0) if device.type == 'cuda' else (512, 0.1)
    a, b = torch.randn(2, side, side, device=device, dtype=torch.bfloat16)
    source = torch.randn(int(gigabytes * 1e9 / 4), device=device)
    target = torch.empty_like(source)
    product, copy = (time_calls(run, 5) for run in (lambda: a @ b, lambda: target.copy_(source)))
    return {'TFLOP/s': 2 * side**3 / product / 1e12, 'TB/s': 2 * gigabytes / 1e3 / copy}


def time_networks(guidance: StableDiffusionGuidance, device: torch.device, repeats: int) -> dict[str, float]:
    """Time the networks alone, as a step calls them, in seconds."""
    size, context = guidance.latent_size, guidance.embeddings.negative.expand(2, -1, -1)
    noisy, t = torch.randn(2, 4, size, size, device=device), torch.full((2,), 500, device=device)
    image = torch.rand(1, guidance.image_size, guidance.image_size, 3, device=device, requires_grad=True)

    def unet() -> None:
        guidance.noise_model.outputs(noisy[:1], t[:1], [context[:1], context[1:]])

    def encoder() -> None:
        image.grad = None
        guidance.encode(image).sum().backward()

    for run in (unet, encoder):  # warm up
        time_calls(run, 3, 1)
    return {'UNet': time_calls(unet, repeats), 'VAE encoder': time_calls(encoder, repeats)}


def build_guidance(device: torch.device, *, compile: bool, small: bool) -> StableDiffusionGuidance:
    """Build the guidance of random weights and encode its prompt."""
    weights = RandomStableDiffusion(device, small=small)
    on_gpu = device.type == 'cuda'
    networks = NetworkOptions(precision='auto', channels_last=on_gpu, compile=compile)
    guidance = StableDiffusionGuidance(weights=weights, networks=networks)
    guidance.prepare(PromptSet('a hamburger'), device)
    return guidance


def measure(guidance: StableDiffusionGuidance, device: torch.device, repeats: int) -> dict[str, Any]:
    """Time steps and networks with this guidance."""
    found: dict[str, Any] = {name: {} for name in ('losses', 'first_steps_s', 'step_s', 'waiting_step_s', 'shares_ms')}
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    for phase in PHASES:
        torch.manual_seed(0)
        step = FullSizeStep(device, guidance, latent=phase == 'latent')
        started = time.perf_counter()
        losses = [(step(), step.loss)[1] for _ in range(WARM_UP)]
        found['losses'][phase] = torch.stack(losses).tolist()
        found['first_steps_s'][phase] = time.perf_counter() - started
        found['step_s'][phase] = time_calls(step, repeats)
        found['shares_ms'][phase] = shares(step)
        found['samples'] = step.samples
        step.renderer.sampler.predicts = False  # wait for the numbers of samples
        found['waiting_step_s'][phase] = time_calls(step, repeats)
        print(phase, json.dumps(found), flush=True)
    found['parts_s'] = time_networks(guidance, device, repeats)
    if device.type == 'cuda':
        found['peak_memory_gib'] = torch.cuda.max_memory_allocated() / 2**30
    return found


def check_equal(ways: dict[str, dict]) -> None:
    """End the program where the losses of a way differ from those of eager: its times would mean nothing."""
    for way, found in ways.items():
        for phase, losses in found['losses'].items():
            for loss, expected in zip(losses, ways['eager']['losses'][phase], strict=True):
                if not abs(loss - expected) <= TOLERANCE * abs(expected):
                    raise SystemExit(f'{way}, {phase} phase: losses {losses}, eager {ways["eager"]["losses"][phase]}.')


def format_report(report: dict) -> str:
    """Return the report in Markdown."""
    ways, ceiling = report['ways'], report['ceilings']
    lines = [
        f'# {report["device"]}: steps at the size of Stable Diffusion 2.1 base',
        '',
        f'torch {report["torch"]}, random weights, bf16-mixed, guidance in {report["guidance_dtype"]}, Adan. '
        f'64 x 64 renders of the full-size field: {ways["eager"]["samples"]} places for samples. '
        f'Medians of {report["repeats"]} times ten steps in a row. This device, measured: '
        f'{ceiling["TFLOP/s"]:.0f} TFLOP/s in a bfloat16 product, {ceiling["TB/s"]:.2f} TB/s in a copy.',
        '',
        '| | ' + ' | '.join(ways) + ' |',
        '|---|' + '---:|' * len(ways),
    ]

    found = list(ways.values())

    def row(name: str, values: list[str]) -> None:
        lines.append(f'| {name} | ' + ' | '.join(values) + ' |')

    for phase in PHASES:
        row(f'step, {phase} phase [ms]', [f'{f["step_s"][phase] * 1e3:.1f}' for f in found])
        waiting = [f'{f["waiting_step_s"][phase] * 1e3:.1f}' for f in found]
        row('... where the host waits for the numbers of samples', waiting)
        row('... kernels on the device', [f'{sum(f["shares_ms"][phase].values()):.1f}' for f in found])
        for part in found[0]['shares_ms'][phase]:
            row(f'... ... {part}', [f'{f["shares_ms"][phase][part]:.2f}' for f in found])
        row(f'... first {WARM_UP} steps [s]', [f'{f["first_steps_s"][phase]:.1f}' for f in found])
    for part, tflop in TFLOP.items():
        row(f'{part} alone [ms]', [f'{f["parts_s"][part] * 1e3:.2f}' for f in found])
        row('... share of the product', [f'{tflop / f["parts_s"][part] / ceiling["TFLOP/s"]:.0%}' for f in found])
    if 'peak_memory_gib' in found[0]:
        row('peak memory [GiB]', [f'{f["peak_memory_gib"]:.1f}' for f in found])
    return '\n'.join(lines) + '\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--ways', nargs='+', choices=list(WAYS), default=list(WAYS))
    parser.add_argument('--repeats', type=int, default=20)
    parser.add_argument('--small', action='store_true', help='tiny networks, to see that it runs')
    parser.add_argument('--out', type=Path, help='a folder for <device>-full-size.json and .md')
    options = parser.parse_args()
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as the recipe says
    ways: dict[str, dict] = {}
    guidance, compiled = None, None
    for way, (compile, record) in WAYS.items():
        if way not in ('eager', *options.ways):
            continue
        if compile != compiled:
            guidance, compiled = None, compile  # the one before is let go first
            guidance = build_guidance(device, compile=compile, small=options.small)
        if record:
            guidance.record_networks()
        ways[way] = measure(guidance, device, options.repeats)
        check_equal(ways)
        write_report(ways, device, options)


def write_report(ways: dict[str, dict], device: torch.device, options: argparse.Namespace) -> None:
    """Print the report, and write it to files where --out names a folder."""
    found = {
        'device': torch.cuda.get_device_name() if device.type == 'cuda' else 'CPU',
        'torch': torch.__version__,
        'guidance_dtype': str(fast_dtype(device)).removeprefix('torch.'),
        'repeats': options.repeats,
        'ceilings': measure_ceilings(device),
        'ways': ways,
    }
    print(format_report(found), flush=True)
    if options.out:
        stem = file_stem(found['device']) + '-full-size'
        options.out.mkdir(parents=True, exist_ok=True)
        write_atomically(options.out / f'{stem}.json', json.dumps(found, indent=2) + '\n')
        write_atomically(options.out / f'{stem}.md', format_report(found))


if __name__ == '__main__':
    main()
