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

"""How much a run survives: kills it, damages its files, breaks its configuration, and prints what was lost.

    python tests/reliability/run.py                      # some minutes
    python tests/reliability/run.py --kills 100 --damaged 5000 --broken 5000

Exit code 0 when nothing was lost. Everything is real: the main example with all its files in processes of its own, on a
small scene; a tmpfs that fills up where mounting is allowed (else a limit on the size of files).
"""

import argparse
import logging
import os
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import lightning.pytorch as pl  # noqa: E402
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from reliability import broken, fits  # noqa: E402

from nemo_dreamfusion.launch import fitting  # noqa: E402
from nemo_dreamfusion.models.nemo_archive import check_archive  # noqa: E402

STEPS = 120  # of each fit


def go(folder: Path, *overrides: str, threads: int = 1, before: Callable[[], None] = fits.nothing) -> int:
    """A run in a process of its own, to its end; its exit code."""
    cfg = fits.tiny(folder, f'trainer.max_steps={STEPS}', *overrides)
    return fits.finish(cfg, folder.with_suffix('.log'), threads, before)


def lost(folder: Path, whole: Path, metrics: bool = True) -> int:
    """Bytes of the last checkpoint that are not those of the unbroken run (0: equal; metrics of all steps, too)."""
    mine, theirs = (fits.comparable(fits.last_checkpoint(base)) for base in (folder, whole))
    places = fits.differences(theirs, mine)
    if metrics and fits.metrics_of(folder) != fits.metrics_of(whole):
        places.append('metrics')
    if places:
        print(f'  differs: {places[:5]}')
    return sum(size_at(theirs, place) for place in places)


def size_at(values, place: str) -> int:
    """Bytes of what stands at a path of keys; 1 where it has no size."""
    for key in place.strip('/').split('/'):
        values = values.get(key) if isinstance(values, dict) else values
    return values.nbytes if hasattr(values, 'nbytes') else 1


def kills(base: Path, count: int, seed: int, threads: int) -> tuple[int, int, int]:
    """(kills, kills survived, bytes lost) of one fit: a third within the writing of a checkpoint, the others at random."""
    whole, folder = base / f'whole{threads}', base / f'killed{threads}'
    assert go(whole, threads=threads) == 0, whole.with_suffix('.log').read_text()[-2000:]
    chance, done, survived = random.Random(seed), 0, 0
    while done < count:
        within = [
            partial(fits.die_while_writing, chance.uniform(0.1, 0.95)),
            partial(fits.die_at, 'fsync', chance.randint(3, 8)),
            partial(fits.die_at, 'replace', chance.randint(3, 8)),
        ]
        if done % 3 == 0:
            code = go(folder, threads=threads, before=within[done // 3 % 3])
            if code == 0:
                break
            assert code < 0, folder.with_suffix('.log').read_text()[-2000:]
        else:
            cfg = fits.tiny(folder, f'trainer.max_steps={STEPS}')
            log, moment = folder.with_suffix('.log'), chance.randrange(10**9)
            if not fits.kill_at_random(cfg, log, kills=1, seed=moment, threads=threads):
                break
        done += 1
        survived += checkpoint_is_good(folder)
    assert go(folder, threads=threads) == 0, folder.with_suffix('.log').read_text()[-2000:]
    return done, survived, lost(folder, whole)


def checkpoint_is_good(folder: Path) -> bool:
    """After a kill: whatever stands under a checkpoint's name loads, or nothing was written yet."""
    found = folder.glob('*/checkpoints/*.ckpt')
    return all(fits.read_checkpoint(path)['state_dict'] for path in found if not path.name.startswith('.'))


@contextmanager
def small_disk(base: Path, size: str) -> Iterator[Path | None]:
    """A tmpfs of its own; None where mounting is not allowed."""
    place = base / 'disk'
    place.mkdir(exist_ok=True)
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', str(place)], capture_output=True)
    try:
        yield place if mounted.returncode == 0 else None
    finally:
        if mounted.returncode == 0:
            subprocess.run(['umount', str(place)], check=True)


def full_disk(base: Path) -> tuple[str, int, int, int]:
    """Runs until the disk is full, makes room, runs again. (How, runs, runs with one clear line, bytes lost.)"""
    log = base / 'full.log'
    with small_disk(base, '4m') as disk:
        folder = (disk or base) / 'results'
        cfg = fits.tiny(folder, f'trainer.max_steps={STEPS}')
        assert fits.finish(cfg, base / 'before.log', before=partial(fits.stop_at, 7, signal.SIGTERM)) == 143
        if disk is None:
            code = fits.finish(cfg, log, before=partial(fits.limit_file_size, 0.5))
        else:
            fill(disk / 'filler', leave=120_000)  # room to begin, and none for a checkpoint
            code = fits.finish(cfg, log, before=no_records)
            (disk / 'filler').unlink()
        clear = code == 74 and 'Traceback' not in log.read_text() and 'could not be written' in log.read_text()
        assert fits.last_checkpoint(folder)['global_step'] >= 7
        assert fits.finish(cfg, base / 'after.log', before=no_records) == 0
        how = 'tmpfs' if disk else 'RLIMIT_FSIZE'
        return how, 1, int(clear), lost(folder, base / 'whole1', metrics=False)


def no_records() -> None:
    """The steps' metrics are not written down in the run's folder, where they would fill the disk too."""
    fitting.make_preview = lambda cfg, folder: pl.Callback()


def fill(path: Path, leave: int) -> None:
    """Writes until there is no room, then gives some back."""
    with path.open('wb', buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(bytes(4096))
        file.truncate(file.tell() - leave)


def read_only(base: Path) -> tuple[int, int]:
    """A folder on a file system that became read-only. (Runs, runs with one clear line.)"""
    with small_disk(base, '4m') as disk:
        if disk is None:
            return 0, 0
        assert go(disk / 'results', before=partial(fits.stop_at, 7, signal.SIGTERM)) == 143
        subprocess.run(['mount', '-o', 'remount,ro', str(disk)], check=True)
        code = fits.finish(fits.tiny(disk / 'results', f'trainer.max_steps={STEPS}'), base / 'read_only.log')
        text = (base / 'read_only.log').read_text()
        good = fits.last_checkpoint(disk / 'results')['global_step'] == 7
        return 1, int(code == 2 and 'exp_manager.exp_dir' in text and 'Traceback' not in text and good)


def damaged(base: Path, count: int, seed: int) -> tuple[int, int, int, int]:
    """(.nemo and .ckpt files damaged, refused, with the same contents, silently accepted)."""
    chance = random.Random(seed)
    folder = fits.folder_of(base / 'whole1')
    sources = [folder / 'DreamFusion.nemo', *folder.glob('checkpoints/*-last.ckpt')]
    found = {'refused': 0, 'same': 0, 'accepted': 0}
    for number in range(count):
        source = sources[number % len(sources)]
        path = base / f'broken{source.suffix}'
        path.write_bytes(harm(source.read_bytes(), chance))
        try:
            if source.suffix == '.nemo':
                check_archive(path)
            else:
                fits.read_checkpoint(path)
        except ValueError:
            found['refused'] += 1
            continue
        found['accepted' if fits.differences(contents(source), contents(path)) else 'same'] += 1
    return count, found['refused'], found['same'], found['accepted']


def harm(data: bytes, chance: random.Random) -> bytes:
    """One bit flipped, the end cut off, a block zeroed, or junk put in."""
    place, kind = chance.randrange(len(data)), chance.randrange(4)
    if kind == 0:
        return data[:place] + bytes([data[place] ^ (1 << chance.randrange(8))]) + data[place + 1 :]
    if kind == 1:
        return data[:place]
    if kind == 2:
        return data[:place] + bytes(512) + data[place + 512 :]
    return data[:place] + chance.randbytes(chance.randint(1, 64)) + data[place:]


def contents(path: Path) -> dict:
    """All that a reader gets of a file."""
    if path.suffix == '.nemo':
        with tarfile.open(path) as archive:
            return {m.name: archive.extractfile(m).read() for m in archive.getmembers() if m.isfile()}
    return fits.read_checkpoint(path)


def configurations(count: int) -> tuple[int, int]:
    """(Broken configurations, refused in one sentence that names the key). Anything but that sentence raises."""
    found = {'given': 0, 'refused': 0}
    many = settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))

    @many
    @given(st.one_of(broken.misspelt(), broken.no_number()))
    def refused(case):
        config, key = case
        found['given'] += 1
        try:
            broken.validate(config)
        except ValueError as error:
            found['refused'] += key in str(error)

    @many
    @given(st.one_of(broken.anything(), broken.lacking()))
    def no_other_error(case):
        try:
            broken.validate(case[0])
        except ValueError:
            pass

    refused()
    no_other_error()
    return found['given'], found['refused']


def main() -> None:
    """Runs all, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--kills', type=int, default=24, help='of one fit on one thread, and a quarter of them of one on two'
    )
    parser.add_argument('--damaged', type=int, default=1000, help='files')
    parser.add_argument('--broken', type=int, default=500, help='configurations')
    parser.add_argument('--seed', type=int, default=0)
    options = parser.parse_args()
    logging.getLogger('lightning.pytorch.utilities.rank_zero').setLevel(logging.ERROR)
    began, rows, losses = time.monotonic(), [], 0
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        for threads, count in ((1, options.kills), (2, options.kills // 4)):
            done, survived, missing = kills(base, count, options.seed + threads, threads)
            rows.append((f'kills survived, {threads} thread(s)', f'{survived} of {done}', f'{missing} bytes lost'))
            losses += missing + done - survived
        how, runs, clear, missing = full_disk(base)
        rows.append((f'full disk ({how})', f'{clear} of {runs} ended with one line', f'{missing} bytes lost'))
        losses += missing + runs - clear
        runs, clear = read_only(base)
        rows.append(('read-only folder', f'{clear} of {runs} ended with one line' if runs else 'no mounting here', ''))
        losses += runs - clear
        given_, refused, same, accepted = damaged(base, options.damaged, options.seed)
        rows.append(('damaged archives refused', f'{refused} of {given_}', f'{same} only in unread padding'))
        losses += accepted
        os.chdir(base)
        before = sorted(base.iterdir())
        given_, refused = configurations(options.broken)
        rows.append(('broken configurations refused', f'{refused} of {given_}', '0 files written'))
        losses += given_ - refused + (sorted(base.iterdir()) != before)
        os.chdir('/')
    width = max(len(row[0]) for row in rows)
    for what, count, remark in rows:
        print(f'{what:<{width}}  {count:<26}  {remark}')
    print(f'{"bytes lost":<{width}}  {losses}')
    print(f'{time.monotonic() - began:.0f} s')
    sys.exit(min(losses, 1))


if __name__ == '__main__':
    main()
