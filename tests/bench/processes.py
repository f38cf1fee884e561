"""What processes use, read from /proc: CPU, memory, switches; and a loop to measure the machine by."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def _fields(pid: int) -> list[str]:
    """Of `/proc/<pid>/stat`, from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = _fields(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS


def family(pid: int) -> list[int]:
    """A process and all that came from it: a prefork pool's children, the node behind RabbitMQ's script."""
    parents = {}
    for one in Path("/proc").iterdir():
        if one.name.isdigit():
            with suppress(OSError):  # it has just ended
                parents[int(one.name)] = int(_fields(int(one.name))[1])
    found = [pid]
    for parent in found:  # which grows meanwhile
        found += [child for child, of in parents.items() if of == parent]
    return found


def cpu_of(pids: Iterable[int]) -> float:
    """Seconds of CPU that these have used together."""
    return sum(map(cpu_s, pids))


def switches(pid: int) -> int:
    """How often the threads that a process has now were switched away from, by themselves or not."""
    found = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # it has just ended
            found += sum(int(n) for n in re.findall(r"ctxt_switches:\s+(\d+)", (task / "status").read_text()))
    return found


def _kib(pid: int, file: str, name: str) -> int:
    text = next(line for line in Path(f"/proc/{pid}/{file}").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(text.split()[1])


def peak_mib(pid: int) -> float:
    """The most memory a process has had."""
    return _kib(pid, "status", "VmHWM") / 1024


def rss_mib(pid: int) -> float:
    """Memory of a process now."""
    return _kib(pid, "status", "VmRSS") / 1024


def memory_of(pids: Iterable[int]) -> float:
    """MiB that these have now, what they share counted once."""
    return sum(_kib(pid, "smaps_rollup", "Pss") for pid in pids) / 1024


class Loop:
    """A fixed piece of work, done again and again beside a measurement."""

    def __init__(self) -> None:
        """Begins at once."""
        self._seen: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(0.25):
            began, found = time.thread_time(), {}
            for n in range(60_000):
                found[n & 255] = str(n)
            self._seen.append((time.thread_time() - began) * 1000)

    def mean_ms(self) -> float:
        """Ends it."""
        self._ended.set()
        self._thread.join()
        return sum(self._seen) / max(1, len(self._seen))
