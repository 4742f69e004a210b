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

"""From a sentence to a 3-D object.

    python examples/dreamfusion.py --config-name dreamfusion model.prompt='a red cube on top of a blue cylinder'
    python examples/dreamfusion.py --config-name dreamfusion trainer.max_steps=50 exp_manager.exp_dir=/some/where
    python examples/dreamfusion.py prompts_file=examples/prompts.txt hydra/launcher=joblib
    python examples/dreamfusion.py --multirun model.prompt='a hamburger','a snowman'
    python examples/dreamfusion.py --config-name dreamfusion mode=test restore_from_path=DreamFusion.nemo
    python examples/dreamfusion.py --config-name dreamfusion mode=export-mesh restore_from_path=DreamFusion.nemo

The results stand in <exp_dir>/<slug of the prompt>-<hash>/; those of a list of prompts are summed up in <exp_dir>/summary.md
and <exp_dir>/contact_sheet.png. The command of the installed package, nemo-dreamfusion, takes the same arguments.

In a program or a notebook:

    from nemo_dreamfusion import launch

    result = launch.fit(launch.load_config(overrides=['model.prompt=a duck']))
"""

from nemo_dreamfusion.launch.command_line import command

if __name__ == '__main__':
    command()
