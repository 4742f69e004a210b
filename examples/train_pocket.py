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

"""Train the pocket Stable Diffusion from a seed: renders → autoencoder → UNet and text encoder → weights folder.

    python examples/train_pocket.py                                  # everything; hours on two cores
    python examples/train_pocket.py work_dir=/tmp/p diffusion.finish_at=18:30
    python examples/train_pocket.py diffusion.steps=40000            # go on with a finished training
    python examples/train_pocket.py start_from=nemo_dreamfusion/pocket/weights   # improve what ships, from its weights
    touch pocket_training/FINISH                                     # end early: decay the learning rate, publish, stop
    python examples/train_pocket.py diffusion.steps=0 out=nemo_dreamfusion/pocket/weights   # ship what was trained so far

It can be stopped at any time and started again with the same command: each stage goes on from its last checkpoint. The
weights appear in <work_dir>/weights, or in out=<folder>. With diffusion.steps at or below the steps already made, the same
command publishes the last checkpoint without training.
Every field of TrainConfig (nemo_dreamfusion/pocket/training/train.py) can be set as `name=value`.
"""

from __future__ import annotations

import re
import sys

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nemo_dreamfusion.parts.checks import check_keys, first_line
from nemo_dreamfusion.pocket.training.train import TrainConfig, train


def read_arguments(arguments: list[str]) -> TrainConfig:
    """`name=value` arguments over the defaults.

    Raises:
        ValueError: for an unknown name, or a value of the wrong kind.
    """
    defaults = OmegaConf.structured(TrainConfig)
    OmegaConf.set_readonly(defaults.cameras, False)  # a frozen dataclass's node is not to be set otherwise
    for argument in arguments:
        if '=' not in argument:
            raise ValueError(f'{argument!r} is not of the form name=value: --help lists examples.')
    given = [
        re.sub(r'=(\d+:\d+)$', r'="\1"', argument) for argument in arguments
    ]  # YAML reads 18:30 as the number 1110
    try:
        return OmegaConf.to_object(OmegaConf.merge(defaults, OmegaConf.from_dotlist(given)))
    except OmegaConfBaseException as error:
        name, _, key = str(error.full_key or '').rpartition('.')
        known = OmegaConf.select(defaults, name) if name else defaults
        if OmegaConf.is_dict(known):
            check_keys(name, [key], [str(k) for k in known])
        raise ValueError(f'{error.full_key}: {first_line(error)}.') from error


def main() -> None:
    """Parse the arguments and train."""
    if {'-h', '--help'} & set(sys.argv[1:]):
        print(__doc__)
        return
    try:
        train(read_arguments(sys.argv[1:]))
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == '__main__':
    main()
