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

"""A NeMo Stable Diffusion archive to a folder in diffusers' format, or back.

    python examples/convert_stable_diffusion.py source=<file>.nemo target=<folder> [tokenizer=<folder or hub id>]
    python examples/convert_stable_diffusion.py source=<folder> target=<file>.nemo [tokenizer=<folder or hub id>]
    python examples/convert_stable_diffusion.py source=pocket target=pocket.nemo

Tensors keep their values and types. context_length=80 (or null) says to what length text embeddings are padded; left out,
the target keeps what the source says. unnormalised_kv=true is for archives whose weights NeMo v1.23 itself trained.
force=true replaces a target that exists.
"""

import inspect
import sys

from omegaconf import OmegaConf

from nemo_dreamfusion.checkpoints.convert import convert
from nemo_dreamfusion.parts.checks import check_keys


def main(arguments: list[str]) -> None:
    """Reads key=value arguments and converts; what a user can mend is said in one line."""
    try:
        given = OmegaConf.to_container(OmegaConf.from_dotlist(arguments))
        check_keys('', given, inspect.signature(convert).parameters)
        for name in ('source', 'target'):
            if not isinstance(given.get(name), str):
                raise ValueError(f'{name} is missing: set source=<.nemo or folder> target=<folder or .nemo>.')
        notes = convert(**given)
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    for note in notes:
        print(f'note: {note}')
    print(f'Done: {given["target"]}')


if __name__ == '__main__':
    main(sys.argv[1:])
