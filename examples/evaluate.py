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

"""Score finished objects: of the pocket world against their true shapes, any others by published models.

    python examples/evaluate.py prompts_file=examples/prompts.txt out=eval.json
    python examples/evaluate.py nemo_files=[a.nemo,b.nemo] out=eval.json
    python examples/evaluate.py metric=clip_r_precision metric.candidates=captions.txt runs=results out=results/clip
    python examples/evaluate.py metric=t3bench_quality runs=results out=results/t3bench

Without a metric the JSON holds {"objects": [{"prompt", "iou", "psnr_db", "retrieval_rank", "view_accuracy", "fit_seconds",
"steps"}, ...], "mean": {...}, "failed": [...]}, the last being the prompts and files that could not be made or scored.
"""

from nemo_dreamfusion.launch.command_line import main_evaluate as main

if __name__ == '__main__':
    main()
