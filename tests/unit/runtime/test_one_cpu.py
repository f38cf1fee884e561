"""All threads of a process stay on the CPU with the most to spare, and what comes from it does not.

In processes of their own: the tests' own one would stay on a CPU for good.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CPUS = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]

pytestmark = pytest.mark.skipif(len(CPUS) < 2, reason="NOT TESTED HERE: it takes Linux and two CPUs")

#: What each process begins with; `stat(...)` writes how long each CPU was busy, in hundredths of a second.
BEGIN = """
import os, sys, threading, time
from pathlib import Path
from bridge.runtime.one_cpu import OneCpu
from tests.support.helpers import eventually
CPUS, FILE = sorted(os.sched_getaffinity(0)), Path(sys.argv[1])
end = threading.Event()
for _ in range(5):
    threading.Thread(target=end.wait, daemon=True).start()
def everywhere():
    return [os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task")]
def stat(**busy):
    FILE.write_text("cpu  1 2 3 4\\n" + "".join(f"cpu{n} {busy.get(f'cpu{n}', 0)} 0 0 99 0 0 0 0 0 0\\n" for n in CPUS))
def held(used):
    one = OneCpu(FILE)
    stat()
    one.once()
    time.sleep(0.2)
    stat(**used)
    one.once()
    return one
"""


def run(tmp_path: Path, code: str) -> None:
    """To its end, which is a good one."""
    command = [sys.executable, "-c", BEGIN + code, str(tmp_path / "stat")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr


def test_all_threads_are_on_the_cpu_that_others_use_least(tmp_path: Path) -> None:
    """Those that run, and one that starts later."""
    run(
        tmp_path,
        """
held({f"cpu{n}": 100 for n in CPUS[:-1]})
threading.Thread(target=end.wait, daemon=True).start()
assert everywhere() == [{CPUS[-1]}] * 7, everywhere()
""",
    )


def test_it_is_left_when_others_come_and_kept_when_its_own_work_fills_it(tmp_path: Path) -> None:
    """Others use it for a while: sooner or later another is taken. One's own use is no reason to go."""
    run(
        tmp_path,
        """
one = held({f"cpu{n}": 100 for n in CPUS[:-1]})
mine, busy, others = CPUS[-1], 0, {f"cpu{n}": 100 for n in CPUS[:-1]}
def work(seconds):  # and what it used stands in the file, in hundredths
    before = time.process_time()
    while time.process_time() - before < seconds:
        pass
    return round((time.process_time() - before) * 100)
for _ in range(20):
    busy += work(0.05)
    stat(**{**others, f"cpu{mine}": busy})
    one.once()
    assert everywhere()[0] == {mine}
def crowded():
    global busy
    time.sleep(0.05)
    busy += 5
    stat(**{**others, f"cpu{mine}": busy})
    one.once()
    return everywhere()[0] != {mine}
eventually(crowded, timeout=10)
assert len(everywhere()[0]) == 1
""",
    )


def test_none_is_held_where_others_fill_them_all(tmp_path: Path) -> None:
    """The kernel shares them out until one has room again."""
    run(
        tmp_path,
        """
one, full = held({}), 0
def next_look(step):
    global full
    full += step
    time.sleep(0.1)
    stat(**{f"cpu{n}": full for n in CPUS})
    one.once()
    return everywhere()
for _ in range(2):
    assert next_look(100) == [set(CPUS)] * 6
assert len(next_look(0)[0]) == 1
""",
    )


def test_a_child_has_all_cpus_again_and_so_has_everything_in_the_end(tmp_path: Path) -> None:
    """A pool's children run the tasks of others."""
    run(
        tmp_path,
        """
one = held({})
child = os.fork()
if not child:
    os._exit(0 if everywhere() == [set(CPUS)] else 1)
assert os.waitpid(child, 0)[1] == 0
assert len(everywhere()[0]) == 1
one.let_go()
one.once()
assert everywhere() == [set(CPUS)] * 6
""",
    )


def test_what_an_operator_has_set_since_is_left_as_it_is(tmp_path: Path) -> None:
    """`taskset -p` of a process that runs."""
    run(
        tmp_path,
        """
one = held({f"cpu{n}": 100 for n in CPUS[1:]})
os.sched_setaffinity(0, set(CPUS[:2]))
for _ in range(3):
    one.once()
assert os.sched_getaffinity(0) == set(CPUS[:2])
one.let_go()
assert os.sched_getaffinity(0) == set(CPUS[:2])
""",
    )


def test_where_the_kernel_tells_nothing_any_cpu_is_as_good(tmp_path: Path) -> None:
    """A container may hide the file, or number the CPUs in its own way."""
    run(
        tmp_path,
        """
one = OneCpu(FILE)  # which is not there
one.once()
one.once()
assert len(everywhere()[0]) == 1
FILE.write_text("cpu 1\\ncpu999 1 1\\nintr 5\\n")
one.once()
assert len(everywhere()[0]) == 1
""",
    )
