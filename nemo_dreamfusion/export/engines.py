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

"""Build the engines of a Stable Diffusion: each network to ONNX through NeMo's Exportable, each ONNX model to a plan.

What a plan is depends on the engine that ``conf.yaml`` names. For TensorRT it is a serialized engine, for ONNX Runtime the
ONNX model itself (weights beyond 2 GB, which one ONNX file cannot hold, stand beside it in ``<name>.plan.data``).
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from nemo_dreamfusion.checkpoints.base import Checkpoint
from nemo_dreamfusion.checkpoints.nemo_config import check_context_length
from nemo_dreamfusion.checkpoints.sources import open_checkpoint
from nemo_dreamfusion.modules.guidance.engines.plans import ENGINES, PACKAGES, fingerprint
from nemo_dreamfusion.modules.guidance.engines.runner import Runner
from nemo_dreamfusion.modules.guidance.networks.base import (
    AutoencoderKL,
    CLIPTextModel,
    FrozenNetwork,
    UNet2DConditionModel,
    freeze,
)
from nemo_dreamfusion.modules.guidance.networks.precision import weight_dtype
from nemo_dreamfusion.modules.guidance.networks.text_encoder import TextEncoder
from nemo_dreamfusion.modules.guidance.networks.unet import NoisePredictor, check_channels
from nemo_dreamfusion.modules.guidance.networks.vae import ImageDecoder
from nemo_dreamfusion.parts.checks import check_choice, check_positive, first_line, refuse
from nemo_dreamfusion.parts.files import atomic_folder
from nemo_dreamfusion.parts.optional import require

TUNED_ROWS = {'clip': 1, 'unet': 2, 'vae': 1}  # per image: the UNet's are the text and the unconditional text
MOST_ROWS = {'clip': 1, 'unet': 5, 'vae': 1}  # Perp-Neg adds up to three
TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2}  # of a plan against torch, relative to the largest output
LARGEST_FILE = 2**31 - 2**20  # bytes; what an ONNX file can hold
_CONF_HEADER = """\
# Written by nemo-dreamfusion-build-engines. NeMo's keys; sampler and unconditional_guidance_scale are for NeMo's pictures
# from text and guide nothing here. A .plan is what `engine` loads: a TensorRT engine, or for onnxruntime an ONNX model.
"""


def build_engines(
    source: str,
    out_dir: str,
    *,
    engine: str = 'tensorrt',
    precision: int | str = 32,
    batch_size: int | None = None,
    max_batch_size: int | None = None,
    context_length: int | str | None = 'auto',
    unnormalised_kv: bool = False,
    text_heads: int | None = None,
    local_files_only: bool = False,
    force: bool = False,
) -> dict[str, float]:
    """Write ``onnx/`` and ``plan/`` with the text encoder (clip), the UNet and the VAE's decoder, the batch dynamic.

    Args:
        source: a ``.nemo`` file, a folder in diffusers' format, a hub id, or ``pocket``.
        out_dir: the folder to write; it appears whole or not at all.
        engine: ``tensorrt`` or ``onnxruntime``.
        precision: of the UNet, 32 or 16. Text encoder and decoder, which run once if at all, stay float32.
        batch_size: TensorRT only: images per step for which the plans are tuned, 1 by default.
        max_batch_size: TensorRT only: most images per step, 4 by default.
        context_length: of a ``.nemo``: as in ``model/guidance=sd_nemo``.
        unnormalised_kv: of a ``.nemo``: likewise.
        text_heads: of a ``.nemo``: likewise.
        local_files_only: read the hub's cache only.
        force: replace an ``out_dir`` that this function made before.

    Returns:
        For each network the largest difference between its plan and torch on random inputs, as a share of the largest
        output.

    Raises:
        ValueError: for a source, a folder or an option that cannot serve, a package or a GPU that is missing, and for a
            plan that does not give what torch gives.
    """
    check_choice('engine', engine, tuple(ENGINES))
    dtype = weight_dtype(precision, name='precision')
    if dtype not in TOLERANCE:
        refuse('precision', precision, '32 or 16')
    batch = _batch_sizes(engine, batch_size, max_batch_size)
    device = _device(engine)
    target = _target(out_dir, force)
    check_context_length('context_length', context_length)
    weights = open_checkpoint(
        source,
        setting='source',
        local_files_only=local_files_only,
        context_length=context_length,
        unnormalised_kv=unnormalised_kv,
        text_heads=text_heads,
    )
    weights.check()
    conf: dict[str, Any] = {}
    differences, checksums = {}, {}
    with atomic_folder(target) as folder:
        (folder / 'plan').mkdir()
        for name, network, checksums[name] in _networks(weights, dtype):
            onnx_file = folder / 'onnx' / name / f'{name}.onnx'
            plan = folder / 'plan' / f'{name}.plan'
            _export(network, onnx_file)
            tuned, most = (TUNED_ROWS[name] * batch[0], MOST_ROWS[name] * batch[1])
            if engine == 'tensorrt':
                _tensorrt_plan(onnx_file, plan, network, tuned, most)
            else:
                onnx_plan(onnx_file, plan)
            runner = ENGINES[engine](plan, device)
            differences[name] = _check(runner, network, dtype if name == 'unet' else torch.float32)
            conf[name] = {n: [tuned, *spec.sizes] for n, spec in {**runner.inputs, **runner.outputs}.items()}
        conf = _with_nemo_keys(conf, batch[0], openai_clip=weights.is_openai_clip())
        conf |= {'engine': engine, 'precision': str(dtype).removeprefix('torch.'), 'weights': checksums}
        if engine == 'tensorrt':
            conf['max_batch_size'] = batch[1]
        text = yaml.safe_dump(conf, sort_keys=False, default_flow_style=None)
        (folder / 'plan' / 'conf.yaml').write_text(_CONF_HEADER + text, encoding='utf-8')
    return differences


def _batch_sizes(engine: str, tuned: int | None, most: int | None) -> tuple[int, int]:
    """Return (tuned, most) images per step, checked."""
    for name, value in (('batch_size', tuned), ('max_batch_size', most)):
        if value is not None and engine != 'tensorrt':
            refuse(name, value, f'left out with engine={engine}, which takes any batch')
    tuned = 1 if tuned is None else check_positive('batch_size', tuned, integer=True)
    most = max(4, tuned) if most is None else check_positive('max_batch_size', most, integer=True)
    if most < tuned:
        refuse('max_batch_size', most, f'at least batch_size, {tuned}')
    return tuned, most


def _device(engine: str) -> torch.device:
    """Return where the plans are tried; ValueError where the engine cannot run."""
    PACKAGES[engine]()
    if engine == 'onnxruntime':
        return torch.device('cpu')
    if not torch.cuda.is_available():
        raise ValueError('engine=tensorrt needs an NVIDIA GPU, and torch sees none. Set engine=onnxruntime.')
    return torch.device('cuda', torch.cuda.current_device())


def _target(out_dir: str, force: bool) -> Path:
    if not isinstance(out_dir, str) or not out_dir.strip():
        refuse('out_dir', out_dir, 'a folder to write')
    target = Path(out_dir).expanduser().resolve()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        ours = (target / 'plan' / 'conf.yaml').is_file() and {p.name for p in target.iterdir()} <= {'onnx', 'plan'}
        if not ours:
            refuse('out_dir', out_dir, 'a new name: what stands there is not a folder of engines')
        if not force:
            refuse('out_dir', out_dir, 'a new name: it holds engines already', 'Set force=true to replace them.')
    return target


def _networks(weights: Checkpoint, dtype: torch.dtype) -> Iterator[tuple[str, FrozenNetwork, str]]:
    """Yield (name, network, fingerprint of its weights), one after the other so that only one is in memory."""
    text: CLIPTextModel = weights.text_encoder(torch.float32)
    tokens = max(text.config.max_position_embeddings, weights.context_length() or 0)
    yield 'clip', freeze(TextEncoder(text), 'cpu'), fingerprint(text)
    unet: UNet2DConditionModel = weights.unet(torch.float32)
    checksum = fingerprint(unet)
    predictor = freeze(NoisePredictor(unet if dtype == torch.float32 else weights.unet(dtype), tokens), 'cpu')
    yield 'unet', predictor, checksum
    vae: AutoencoderKL = weights.vae(torch.float32)
    check_channels(predictor.channels, vae.config.latent_channels)
    yield 'vae', freeze(ImageDecoder(vae, predictor.latent_size), 'cpu'), fingerprint(vae)


def _export(network: FrozenNetwork, file: Path) -> None:
    file.parent.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the exporter's, about itself
        # NeMo ships no types: mypy sees torch's __getattr__ in place of Exportable.export
        network.export(str(file))  # type: ignore[operator]


def onnx_plan(onnx_file: Path, plan: Path, *, largest: int = LARGEST_FILE) -> None:
    """Copy the ONNX model to the plan's name, its weights to ``<name>.plan.data`` where one file cannot hold them."""
    if sum(file.stat().st_size for file in onnx_file.parent.iterdir()) <= largest:
        shutil.copyfile(onnx_file, plan)
        return
    import onnx

    model = onnx.load(onnx_file)
    onnx.save_model(model, plan, save_as_external_data=True, location=f'{plan.name}.data', size_threshold=1024)


def _tensorrt_plan(onnx_file: Path, plan: Path, network: FrozenNetwork, tuned: int, most: int) -> None:
    """Build a TensorRT engine whose types are those of the ONNX model (the only kind that TensorRT 11 makes)."""
    trt = require(
        'polygraphy.backend.trt',
        extra='tensorrt',
        reason='engine=tensorrt builds with it',
        instead='engine=onnxruntime',
    )
    profile = trt.Profile()
    for name, example in zip(network.INPUTS, network.input_example()):
        profile.add(name, *((rows, *example.shape[1:]) for rows in (1, tuned, most)))
    try:
        parsed = trt.network_from_onnx_path(str(onnx_file), strongly_typed=True)
        serialized = trt.engine_bytes_from_network(parsed, config=trt.CreateConfig(profiles=[profile]))
    except Exception as error:  # polygraphy's and TensorRT's own types
        raise ValueError(f'TensorRT could not build {plan.name} ({first_line(error)}).') from error
    plan.write_bytes(bytes(serialized))


@torch.no_grad()
def _check(runner: Runner, network: FrozenNetwork, dtype: torch.dtype) -> float:
    """Return the largest difference between plan and torch on random inputs; ValueError where it is too large."""
    found = 0.0
    for rows in {1, min(3, runner.batch[1] or 3)}:
        inputs = _random_inputs(network, rows)
        wanted = network(*inputs.values()).float()
        (given,) = runner(runner.cast(inputs)).values()
        found = max(found, float((given.cpu().float() - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12)))
    if not found <= TOLERANCE[dtype]:
        raise ValueError(
            f'{runner.plan.name} differs from torch by {found:.2g} of the largest output; {TOLERANCE[dtype]:g} is allowed. '
            'Nothing was written.' + (' Set precision=32.' if dtype != torch.float32 else '')
        )
    return found


def _random_inputs(network: FrozenNetwork, rows: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    below = {'t': 1000, 'tokens': network.model.config.vocab_size if isinstance(network, TextEncoder) else 0}
    return {
        name: torch.randn(x.shape, generator=generator).to(x.dtype)
        if x.is_floating_point()
        else torch.randint(below[name], x.shape, generator=generator, dtype=x.dtype)
        for name, x in zip(network.INPUTS, network.input_example(rows))
    }


def _with_nemo_keys(conf: dict[str, Any], batch_size: int, *, openai_clip: bool) -> dict[str, Any]:
    """Complete the shapes by network to what NeMo's own export wrote."""
    channels, height = conf['unet']['x'][1], conf['vae']['logits'][2]
    clip = {'unconditional_guidance_scale': 7.5, 'max_length': conf['clip']['tokens'][1], 'openai_clip': openai_clip}
    return {
        **conf,
        'clip': {**conf['clip'], **clip},
        'sampler': {'eta': 0, 'inference_steps': 50, 'sampler_type': 'PLMS'},
        'batch_size': batch_size,
        'downsampling_factor': height // conf['unet']['x'][2],
        'in_channels': channels,
        'height': height,
        'width': conf['vae']['logits'][3],
    }
