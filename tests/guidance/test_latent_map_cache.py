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

"""The linear latent map on disk: fitted once for each set of weights, and never taken for others."""

import json

import pytest
import torch
from guidance.small_steps import prepared

from nemo_dreamfusion.modules.guidance import latent_map_cache
from nemo_dreamfusion.modules.guidance.latent_maps import LatentOptions, fit_linear_map


@pytest.fixture
def fits(monkeypatch):
    """The sizes of the images that maps were fitted to, in order."""
    seen = []

    def watched(encode, image_size, *rest):
        seen.append(image_size)
        return fit_linear_map(encode, image_size, *rest)

    monkeypatch.setattr(latent_map_cache, 'fit_linear_map', watched)
    return seen


def same(one, other):
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ('matrix', 'offset', 'r2'))


def test_a_second_run_fits_none_and_has_the_same_map(sd_folder, tmp_path, fits):
    plain = prepared(sd_folder).linear_map
    first = prepared(sd_folder, latents=LatentOptions(cache=str(tmp_path))).linear_map
    assert len(fits) == 2 and len(list(tmp_path.iterdir())) == 1
    second = prepared(sd_folder, latents=LatentOptions(cache=str(tmp_path))).linear_map
    assert len(fits) == 2 and same(plain, first) and same(first, second)


def test_other_weights_another_size_and_a_damaged_file_are_fitted_anew(sd_folder, tmp_path, fits):
    guidance = prepared(sd_folder, latents=LatentOptions(cache=str(tmp_path)))
    encode, size = guidance.encode, guidance.image_size

    def fitted_now(size=size):
        before = len(fits)
        found = latent_map_cache.cached_linear_map(tmp_path, encode, size, 'cpu')
        return len(fits) - before, found

    assert fitted_now()[0] == 0
    name, weight = next(iter(encode.named_parameters()))
    with torch.no_grad():
        kept = weight.flatten()[0].clone()
        weight.view(-1)[0] = torch.nextafter(kept, kept + 1)  # one bit of one weight
    count, other = fitted_now()
    assert count == 1 and not same(other, guidance.linear_map), name
    with torch.no_grad():
        weight.view(-1)[0] = kept
    count, again = fitted_now()
    assert count == 0 and same(again, guidance.linear_map)
    assert fitted_now(size // 2)[0] == 1
    encode.scaling *= 2
    assert fitted_now()[0] == 1
    encode.scaling /= 2
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:50])
    count, again = fitted_now()
    assert count == 1 and same(again, guidance.linear_map)


def test_a_folder_that_cannot_be_written_is_a_warning(sd_folder, tmp_path, caplog):
    (tmp_path / 'file').write_text(json.dumps({}), encoding='utf-8')
    guidance = prepared(sd_folder, latents=LatentOptions(cache=str(tmp_path / 'file')))
    assert guidance.linear_map.r2.numel() and 'model.guidance.latents.cache' in caplog.text
