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

"""What the NeMo Framework Launcher starts: /opt/NeMo/examples/multimodal/x_to_nerf/nerf/main.py.

    python main.py --config-path=<results> --config-name=<run>_hydra.yaml

The launcher writes its ``training`` node to that file. Its settings are laid over
``nemo_dreamfusion/conf/<config_name>.yaml``; the rest is as in ``examples/dreamfusion.py``.
"""

import argparse
import sys
from pathlib import Path

from omegaconf import OmegaConf

from nemo_dreamfusion.launch import command_line
from nemo_dreamfusion.launch.nemo2_config import literal
from nemo_dreamfusion.launch.plain import to_plain
from nemo_dreamfusion.parts.build import flatten

EXAMPLES = Path(__file__).resolve().parents[1]
LAUNCHERS_OWN = ('run.', 'choices.', 'config_name')


def arguments(settings: dict, overrides: list[str]) -> list[str]:
    """Return the command line of dreamfusion.py that says what the launcher's settings say."""
    choices = [f'model/{group}={name}' for group, name in settings.get('choices', {}).items()]
    values = [f'++{key}={literal(value)}' for key, value in flatten(settings) if not key.startswith(LAUNCHERS_OWN)]
    others = [
        override for override in overrides if not override.startswith('+rank=')
    ]  # BCP tells it in the environment too
    return ['--config-name', settings.get('config_name', 'dreamfusion'), *choices, *values, *others]


def main() -> None:
    """Read the launcher's file and do what dreamfusion.py does with those settings."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--config-path', required=True, type=Path)
    parser.add_argument('--config-name', required=True)
    parser.add_argument('overrides', nargs='*')
    given = parser.parse_args()
    settings = to_plain(OmegaConf.load(given.config_path / given.config_name))
    # Lightning starts the other processes of a fit with this command line
    sys.argv = [str(EXAMPLES / 'dreamfusion.py'), *arguments(settings, given.overrides)]
    command_line.command()


if __name__ == '__main__':
    main()
