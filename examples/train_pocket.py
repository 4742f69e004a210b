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

    python examples/train_pocket.py                                  # everything; hours on two cores, minutes on a GPU
    python examples/train_pocket.py work_dir=/tmp/p diffusion.finish_at=18:30
    python examples/train_pocket.py diffusion.steps=40000            # go on with a finished training
    python examples/train_pocket.py start_from=nemo_dreamfusion/pocket/weights   # improve what ships, from its weights
    touch pocket_training/FINISH                                     # end early: decay the learning rate, publish, stop

It can be stopped at any time and started again with the same command: each stage goes on from its last checkpoint.
Every field of TrainConfig (nemo_dreamfusion/pocket/train.py) can be set as `name=value`.
"""

from __future__ import annotations

import sys

from omegaconf import OmegaConf

from nemo_dreamfusion.pocket.train import TrainConfig, save_config, train


def main() -> None:
    """Parse `name=value` arguments and train."""
    structured = OmegaConf.merge(OmegaConf.structured(TrainConfig), OmegaConf.from_dotlist(sys.argv[1:]))
    config = OmegaConf.to_object(structured)
    save_config(config)
    train(config)


if __name__ == '__main__':
    main()
