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

"""What options of the frozen networks save and what they cost in accuracy, at the size of Stable Diffusion 2.1.

    python benchmarks/network_options.py                                  # random weights, on the GPU that is there
    python benchmarks/network_options.py --source <folder or hub id>      # a Stable Diffusion's own weights
    python benchmarks/network_options.py --small --repeats 2              # a rehearsal on a CPU

For each way of computing: the UNet on a guidance pair and the VAE encoder with its gradient, alone, by the clock and by what
the device itself computes; and how far two gradients are from those of float32, the norm of the difference over the norm.
One is that of SDS for the latents, at guidance scale 100, which magnifies the UNet's rounding, the more where weights are
random and texts mean little. The other is that of a fixed function of latents for the image: the VAE encoder's rounding
alone. A way that cannot run here is named with its reason.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any

import torch
from full_size import RandomStableDiffusion, time_calls
from torch import Tensor
from torch.autograd import DeviceType

from nemo_dreamfusion.data.cameras import cameras_from_orbit
from nemo_dreamfusion.modules.guidance.huggingface import HuggingFaceGuidance
from nemo_dreamfusion.modules.guidance.latent_maps import LatentOptions
from nemo_dreamfusion.modules.guidance.networks.options import NetworkOptions
from nemo_dreamfusion.modules.guidance.stable_diffusion import StableDiffusionGuidance
from nemo_dreamfusion.parts.checks import first_line
from nemo_dreamfusion.parts.types import PromptSet, RenderOutput

EXACT: dict[str, Any] = {'precision': 32}
BF16: dict[str, Any] = {'precision': 'bf16', 'channels_last': True}
WAYS: dict[str, dict[str, Any]] = {
    'bf16': BF16,
    'bf16, not channels_last': BF16 | {'channels_last': False},
    'bf16, UNet and VAE: the plain formula': BF16 | {'attention': 'math'},
    'bf16, VAE: blocks': BF16 | {'vae_attention': 'blocks'},
    'bf16, compiled': BF16 | {'compile': True},
    'bf16, compiled, VAE: blocks': BF16 | {'compile': True, 'vae_attention': 'blocks'},
    'fp16': BF16 | {'precision': 16},
    'FP8': BF16 | {'fp8': True},
}
COLUMNS = ('UNet [ms]', 'on the device', 'VAE encoder [ms]', 'on the device', 'error of SDS', 'error of the VAE')
DRAWS = 4  # of latents, times and images, over which an error is taken
SIZE = 64  # of the render, pixels


def build(device: torch.device, ways: dict[str, Any], options: argparse.Namespace) -> StableDiffusionGuidance:
    """Build a guidance that computes in one way, and encode its prompt."""
    shared: dict[str, Any] = {
        'networks': NetworkOptions(**ways),
        'latents': LatentOptions(latent_map='normal_opacity'),  # latents that no network has a part in
    }
    if options.source:
        guidance: StableDiffusionGuidance = HuggingFaceGuidance(source=options.source, **shared)
    else:
        guidance = StableDiffusionGuidance(weights=RandomStableDiffusion(device, small=options.small), **shared)
    guidance.prepare(PromptSet('a hamburger'), device)
    return guidance


def gradients(guidance: StableDiffusionGuidance, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the gradients of SDS for some latents, and of a function of latents for images, [DRAWS, ...] both."""
    same, of_sds, of_image = torch.ones(1), [], []
    cameras = cameras_from_orbit(0 * same, 15 * same, 3.2 * same, 36 * same, SIZE, SIZE)
    for seed in range(DRAWS):
        rng = torch.Generator().manual_seed(seed)
        channels = {'image': 3, 'opacity': 1, 'depth': 1, 'normals': 3}
        drawn = {name: torch.rand(1, SIZE, SIZE, n, generator=rng).to(device) for name, n in channels.items()}
        render, generator = RenderOutput(**drawn), torch.Generator(device).manual_seed(seed)
        render.normals.requires_grad_()  # latents, in this phase
        output = guidance.loss(render, cameras, step=0, progress=0.0, latent=True, generator=generator)
        of_sds += torch.autograd.grad(output.loss, render.normals)
        image = torch.rand(1, guidance.image_size, guidance.image_size, 3, generator=rng).to(device).requires_grad_()
        latents = guidance.encode(image)
        slopes = torch.randn(latents.shape, generator=rng).to(device)
        of_image += torch.autograd.grad(latents, image, slopes)
    return torch.stack(of_sds), torch.stack(of_image)


def device_seconds(run: Callable[[], object], calls: int = 5) -> float:
    """Return what the device computes in a call, in seconds: the sum of its kernels; on a CPU of its operators."""
    on_cuda = torch.cuda.is_available()
    kind = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kind.CPU, kind.CUDA] if on_cuda else [kind.CPU]) as profile:
        for _ in range(calls):
            run()
    return own_seconds(profile.events(), on_cuda) / calls


def own_seconds(events: Iterable[Any], on_cuda: bool) -> float:
    """Return the own time of all events: of kernels, or of a CPU's operators.

    A kernel's time is also that of the operator which launched it, and counts once.
    """
    kind, name = (DeviceType.CUDA, 'self_device_time_total') if on_cuda else (DeviceType.CPU, 'self_cpu_time_total')
    return sum(getattr(event, name) for event in events if event.device_type == kind) / 1e6


def measure(
    guidance: StableDiffusionGuidance, device: torch.device, exact: tuple[Tensor, Tensor], repeats: int
) -> list[str]:
    """Return the cells of a row."""
    size, context = guidance.latent_size, guidance.embeddings.negative.expand(2, -1, -1)
    noisy, t = torch.randn(1, 4, size, size, device=device), torch.full((1,), 500, device=device)
    image = torch.rand(1, guidance.image_size, guidance.image_size, 3, device=device, requires_grad=True)

    def encode() -> None:
        image.grad = None
        guidance.encode(image).sum().backward()

    cells = []
    for run in (lambda: guidance.noise_model.outputs(noisy, t, [context[:1], context[1:]]), encode):
        time_calls(run, 3, 1)  # warm up
        cells += [f'{1e3 * time_calls(run, repeats):.2f}', f'{1e3 * device_seconds(run):.2f}']
    found = gradients(guidance, device)
    return cells + [
        f'{((x - wanted).norm() / wanted.norm()).item():.2%}' for x, wanted in zip(found, exact, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--ways', nargs='+', choices=list(WAYS), default=list(WAYS))
    parser.add_argument('--source', help='a Stable Diffusion in the format of diffusers, in place of random weights')
    parser.add_argument('--repeats', type=int, default=20)
    parser.add_argument('--small', action='store_true', help='tiny networks, to see that it runs')
    options = parser.parse_args()
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    torch.set_float32_matmul_precision('highest')  # for the reference
    torch.backends.cudnn.allow_tf32 = False
    exact = gradients(build(device, EXACT, options), device)
    torch.set_float32_matmul_precision('high')  # as the recipe says
    torch.backends.cudnn.allow_tf32 = True
    print(f'{torch.cuda.get_device_name() if device.type == "cuda" else "CPU"}, torch {torch.__version__}\n')
    print('| | ' + ' | '.join(COLUMNS) + ' |\n|---|' + '---:|' * len(COLUMNS), flush=True)
    for way in options.ways:
        try:
            cells = measure(build(device, WAYS[way], options), device, exact, options.repeats)
        except Exception as error:  # whatever a device lacks must not cost the other rows
            cells = [f'not here: {first_line(error)}']
        print(f'| {way} | ' + ' | '.join(cells) + ' |', flush=True)


if __name__ == '__main__':
    main()
