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

"""Fits a small scene in two gloo processes, and in one: what test_distributed.py looks at.

    python tests/two_processes.py <folder>

NeMo is imported once, and the processes are forked from this one before any tensor is computed. The two «machines» are told
what torchrun tells its processes; torchrun itself starts the command in tests/launch/test_distributed_command.py.
"""

import os
import socket
import sys
from pathlib import Path

import lightning.pytorch as pl
import torch
import torch.multiprocessing as multiprocessing
from hydra.utils import instantiate
from small_model import WEAK_LOSSES, small_config

from nemo_dreamfusion.callbacks.non_finite import SkipNonFinite
from nemo_dreamfusion.callbacks.preview import Preview
from nemo_dreamfusion.data.cameras import cameras_from_orbit, rays
from nemo_dreamfusion.launch.logging import configure_logging
from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.modules.guidance.base import Guidance
from nemo_dreamfusion.parts.types import GuidanceOutput

RADIUS = 0.6
STEPS = 24
SHADED = ('model.latent_iter_ratio=0', 'model.albedo_iter_ratio=0.3', 'model.textureless_ratio=0.5')
ORBIT = ('model.data.test.views=3', 'model.data.test.height=32', 'model.data.test.width=32')
CONFIG = (*SHADED, *ORBIT, 'model.optim.lr=1e-2', 'model.loss.lambda_orientation=0.01', f'trainer.max_steps={STEPS}')
CONFIG += WEAK_LOSSES


def disk(cameras):
    """[B, H, W, 1]: where a ball of RADIUS around the origin is seen."""
    bundle = rays(cameras)
    along = (bundle.origins * bundle.directions).sum(-1, keepdim=True)
    distance = (bundle.origins - along * bundle.directions).norm(dim=-1)
    return (distance < RADIUS).float().view(*bundle.image_shape, 1)


class TowardBall(Guidance):
    """Wants the silhouette of a ball, plus a little noise of each rank's own."""

    def __init__(self):
        super().__init__()
        self.azimuths, self.noise = [], []

    def prepare(self, prompts, device):
        pass

    def loss(self, render, cameras, *, step, progress, latent, generator):
        self.azimuths += cameras.azimuth_deg.tolist()
        noise = torch.rand(1, generator=generator)
        self.noise.append(noise.item())
        wanted = disk(cameras) + 0.01 * noise
        loss = (render.opacity - wanted).square().mean() + 0.01 * render.image.square().mean()
        return GuidanceOutput(
            loss=loss, timesteps=torch.zeros(len(cameras), dtype=torch.int64), gradient_norm=loss.detach()
        )


class NaNOnOneRank(TowardBall):
    """On the second rank the loss of the step 2 is no number."""

    def loss(self, render, cameras, *, step, **rest):
        output = super().loss(render, cameras, step=step, **rest)
        if step == 2 and torch.distributed.get_rank() == 1:
            output.loss.mul_(float('nan'))
        return output


class Notes(pl.Callback):
    """The gradients of the first step; of the last, what had none, and the loss: the mean that is logged and its own."""

    KEPT = ('gradients', 'without_gradient', 'loss', 'own_loss')

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == 0:
            named = pl_module.named_parameters()
            self.gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}
        self.without_gradient = [name for name, p in pl_module.named_parameters() if p.grad is None]

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.loss = trainer.callback_metrics['loss'].item()
        self.own_loss = outputs['loss'].item()


def iou(model):
    """Of the silhouettes, over four views."""
    same = torch.ones(4)
    cameras = cameras_from_orbit(torch.arange(4) * 90.0, same * 15, same * 3.2, same * 36, 24, 24)
    seen, true = model.render_cameras(cameras).opacity > 0.5, disk(cameras) > 0.5
    return ((seen & true).sum() / (seen | true).sum()).item()


def fit(folder, *overrides, rank=None, ckpt_path=None, guidance=None, callbacks=(), **trainer_options):
    """One fit; what a test may ask of it, and the trainer and the model."""
    config = small_config(*CONFIG, *overrides)
    model = DreamFusion(config.model)
    if rank:  # other weights on each rank: DDP must hand out those of the first
        model.load_state_dict({name: value + rank for name, value in model.state_dict().items()})
    model.guidance = guidance or TowardBall()
    if rank is not None and 'devices' not in trainer_options:  # what this rank would do alone
        type(model).global_rank = property(lambda self: rank)
        model.load_state_dict(DreamFusion(config.model).state_dict())
    notes = Notes()
    quiet = {'enable_progress_bar': False, 'enable_model_summary': False, 'limit_val_batches': 0}
    options = {**config.trainer, **quiet, **trainer_options}
    preview = Preview(
        folder=folder,
        interval=0,
        turntable_frames=2,
        turntable_size=16,
        size=16,
        mesh_resolution=0,
        mesh_faces=500,
        texture_size=64,
    )
    trainer = pl.Trainer(**options, default_root_dir=folder, callbacks=[notes, preview, *callbacks])
    trainer.fit(model, datamodule=instantiate(config.model.data), ckpt_path=ckpt_path)
    result = {
        'state': {k: v.clone() for k, v in model.state_dict().items()},
        'azimuths': model.guidance.azimuths,
        'noise': model.guidance.noise,
        'iou': iou(model),
        **{name: getattr(notes, name, None) for name in Notes.KEPT},
    }
    return result, trainer, model, config


def work(rank, port, folder):
    """A process of two."""
    torch.set_num_threads(1)
    os.environ.update(LOCAL_RANK=str(rank), NODE_RANK='0', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.save(one_node(rank, folder), folder / f'one_node-{rank}.pt')


def one_node(rank, folder):
    """Two devices: a fit, its test, and two fits with a sharded optimizer, one of which is resumed."""
    plain, trainer, model, config = fit(folder / 'plain', rank=rank, devices=2, strategy='ddp')
    trainer.test(model, datamodule=instantiate(config.model.data), verbose=False)
    sharded, trainer, _, _ = fit(
        folder / 'sharded', 'model.optim.name=sharded_adam', rank=rank, devices=2, strategy='ddp'
    )
    (optimizer,) = trainer.optimizers
    sharded['tensors'] = len(optimizer.optim.state)
    sharded['held'] = sum(value.numel() for state in optimizer.optim.state.values() for value in state.values())
    options = ('model/optim=adan', 'model.optim.name=sharded_adan')
    whole, _, _, _ = fit(folder / 'whole', *options, 'trainer.max_steps=6', rank=rank, devices=2, strategy='ddp')
    half, trainer, _, _ = fit(
        folder / 'half', *options, 'trainer.max_steps=3', 'model.iters=6', rank=rank, devices=2, strategy='ddp'
    )
    trainer.save_checkpoint(folder / 'half.ckpt')
    resumed, _, _, _ = fit(
        folder / 'rest',
        *options,
        'trainer.max_steps=6',
        rank=rank,
        devices=2,
        strategy='ddp',
        ckpt_path=folder / 'half.ckpt',
    )
    adan, _, _, _ = fit(
        folder / 'adan', 'model/optim=adan', 'trainer.max_steps=6', rank=rank, devices=2, strategy='ddp'
    )
    skip = SkipNonFinite()
    fused = ('+model.optim.fused=true', 'trainer.max_steps=5')
    left_out, trainer, _, _ = fit(
        folder / 'left_out',
        *fused,
        rank=rank,
        devices=2,
        strategy='ddp',
        guidance=NaNOnOneRank(),
        callbacks=[skip],
    )
    states = trainer.optimizers[0].state.values()
    left_out |= {'skipped': skip.skipped, 'steps': sorted({int(state['step']) for state in states})}
    return {
        'plain': plain,
        'sharded': sharded,
        'whole': whole,
        'resumed': resumed,
        'adan': adan,
        'left_out': left_out,
    }


def two_nodes(rank, folder):
    """The same fit as two machines of one device each."""
    return fit(folder / 'nodes', rank=rank, devices=1, num_nodes=2, strategy='auto')[0]


def work_as_node(rank, port, folder):
    """A machine of two, with the environment of torchrun's processes."""
    torch.set_num_threads(1)
    numbers = {'RANK': rank, 'GROUP_RANK': rank, 'ROLE_RANK': rank, 'WORLD_SIZE': 2, 'GROUP_WORLD_SIZE': 2}
    alone = {'LOCAL_RANK': 0, 'LOCAL_WORLD_SIZE': 1, 'TORCHELASTIC_RUN_ID': 'none', 'TORCHELASTIC_RESTART_COUNT': 0}
    meet = {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port}
    os.environ.update({name: str(value) for name, value in (numbers | alone | meet).items()})
    torch.save(two_nodes(rank, folder), folder / f'two_nodes-{rank}.pt')


def alone(folder):
    """One process: the whole fit with two images a step, and the first step that each rank would make."""
    pair = fit(folder / 'pair', 'model.data.train.batch_size=2')[0]
    twice = fit(folder / 'twice', 'trainer.max_steps=2', accumulate_grad_batches=2)[0]
    singles = [fit(folder / f'single{r}', rank=r, max_steps=1)[0] for r in (0, 1)]
    return {'pair': pair, 'twice': twice, 'singles': singles}


def free_port():
    """A TCP port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def work_alone(folder):
    """The process that has nobody beside it."""
    torch.set_num_threads(1)
    torch.save(alone(folder), folder / 'alone.pt')


def main(folder):
    """Two processes, two as of two machines, then one."""
    context = multiprocessing.get_context('fork')
    pairs = []
    for target in (work, work_as_node):
        port = free_port()
        pairs.append([context.Process(target=target, args=(rank, port, folder)) for rank in (0, 1)])
    for processes in (*pairs, [context.Process(target=work_alone, args=(folder,))]):
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout=900)
            if process.exitcode != 0:
                for other in processes:
                    other.kill()
                sys.exit(f'a process ended with {process.exitcode}')


if __name__ == '__main__':
    configure_logging('error')
    main(Path(sys.argv[1]))
