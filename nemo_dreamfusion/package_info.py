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

"""Name, version and description of the package: the one place that states them (setup.py reads this file too)."""

MAJOR = 0
MINOR = 1
PATCH = 0
PRE_RELEASE = ''

__shortversion__ = f'{MAJOR}.{MINOR}.{PATCH}'
__version__ = __shortversion__ + PRE_RELEASE

__package_name__ = 'nemo_dreamfusion'
__contact_names__ = 'the nemo_dreamfusion authors'
__description__ = 'Text-to-3D by score distillation: a collection plugin for the NeMo toolkit'
__license__ = 'Apache-2.0'
__keywords__ = 'nemo, text-to-3d, dreamfusion, score distillation, nerf, stable diffusion'
