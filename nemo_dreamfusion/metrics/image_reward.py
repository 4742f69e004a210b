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

"""ImageReward (Xu et al., 2023, https://arxiv.org/abs/2304.05977), by its authors' package: here or in another environment.

Release 1.5 of the package does not load beside transformers 5, which this package has. So it may be installed in an
environment of its own, whose Python is named, and is asked there: one line of JSON a question, one an answer.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nemo_dreamfusion.metrics.base import ImageScorer
from nemo_dreamfusion.parts.checks import refuse
from nemo_dreamfusion.parts.optional import require

SETTING = 'metric.scorer.python'
# What the other Python runs, which has neither this package nor our releases; what ImageReward prints goes to stderr
_ASKED = """
import json, sys
answers, sys.stdout = sys.stdout, sys.stderr
import ImageReward
model = ImageReward.load(sys.argv[1], device=sys.argv[2])
print(json.dumps('ready'), file=answers, flush=True)
for line in sys.stdin:
    prompt, files = json.loads(line)
    print(json.dumps([float(model.score(prompt, file)) for file in files]), file=answers, flush=True)
"""


class ImageReward(ImageScorer):
    """ImageReward's score of each picture; about -2 to 2, and 0 in the mean over its own training set.

    Args:
        name: of the stage's folder and the report's row.
        model: a name that the package knows, which it downloads once, or the path of the weights.
        python: the Python of an environment that has the package; None: this one.

    """

    def __init__(
        self, *, name: str = 'image_reward', model: str = 'ImageReward-v1.0', python: str | None = None
    ) -> None:
        self.name, self.model_name, self.python = name, model, python
        self._process: subprocess.Popen[str] | None = None
        self._model: Any = None

    def check(self) -> None:
        if self.python is not None and shutil.which(self.python) is None:
            refuse(SETTING, self.python, 'the path of a Python that can be run', 'Such as /home/me/reward/bin/python.')

    def describe(self) -> dict[str, Any]:
        return {'scorer': self.name, 'model': self.model_name}

    def prepare(self, device: torch.device) -> None:
        """Load the model, or start the other Python.

        Raises:
            ValueError: when the package is not there or does not load.
        """
        if self.python is None:
            package = require(
                'ImageReward',
                extra=None,
                reason='metric.scorer=image_reward scores with it',
                instead=f'{SETTING}=<the Python of an environment that has it>',
                install='image-reward',
            )
            self._model = package.load(self.model_name, device=str(device))
            return
        command = [self.python, '-c', _ASKED, self.model_name, str(device)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding='utf-8')
        self._answer()

    def score(self, prompt: str, files: Sequence[Path]) -> list[float]:
        """Return the score of each picture.

        Raises:
            ValueError: when the other Python has ended.
        """
        paths = [str(file.resolve()) for file in files]
        if self.python is None:
            return [float(self._model.score(prompt, path)) for path in paths]
        if self._process is None:  # it ended at an earlier object
            raise self._refusal()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([prompt, paths]) + '\n')
            self._process.stdin.flush()
        except OSError:  # it has ended: what follows says so
            pass
        return self._answer()

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate()  # its input ends, and so does it
        self._process = self._model = None

    def _answer(self) -> Any:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        try:
            return json.loads(line)
        except ValueError:
            self.close()
            raise self._refusal() from None

    def _refusal(self) -> ValueError:
        return ValueError(
            f'{SETTING} = {self.python!r} does not score with ImageReward: what it says stands above. It needs '
            'pip install image-reward, and transformers before release 5.'
        )
