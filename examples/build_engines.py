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

"""The engines of a Stable Diffusion, for ``model/guidance=sd_trt``.

    python examples/build_engines.py source=<.nemo, folder, hub id or pocket> out_dir=<folder> [engine=onnxruntime]
    python examples/build_engines.py source=pocket out_dir=engines engine=onnxruntime
    python examples/build_engines.py source=sd.nemo out_dir=engines engine=tensorrt precision=16 max_batch_size=8

Writes onnx/ and plan/ with clip, unet and vae, and plan/conf.yaml. engine=tensorrt needs an NVIDIA GPU, and its plans
serve that GPU and that version of TensorRT; engine=onnxruntime runs anywhere. force=true replaces engines that are there.
"""

import inspect
import sys

from omegaconf import OmegaConf

from nemo_dreamfusion.export.engines import build_engines
from nemo_dreamfusion.launch.logging import configure_logging
from nemo_dreamfusion.parts.checks import check_keys


def main(arguments: list[str]) -> None:
    """Reads key=value arguments and builds; what a user can mend is said in one line."""
    try:
        configure_logging('warning')
        given = OmegaConf.to_container(OmegaConf.from_dotlist(arguments))
        check_keys('', given, inspect.signature(build_engines).parameters)
        for name in ('source', 'out_dir'):
            if not isinstance(given.get(name), str):
                raise ValueError(f'{name} is missing: set source=<.nemo or folder> out_dir=<folder>.')
        differences = build_engines(**given)
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    for name, difference in differences.items():
        print(f'{name}.plan gives what torch gives, to {difference:.1e} of the largest output')
    print(f'Done: {given["out_dir"]}')


if __name__ == '__main__':
    main(sys.argv[1:])
