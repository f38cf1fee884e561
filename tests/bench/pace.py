"""Planned polls beside fixed polling, simulated over run times as endpoints have them.

    scripts/bench pace

No clock and no server: the same figures everywhere.
"""

from __future__ import annotations

from bridge.engine.watch.poll_plan import Load, known
from tests.unit.engine.watch.test_poll_plan import ENDPOINTS, drawn, every, history, means, mixed, watched


def main() -> None:
    """One line an endpoint, then all of them together."""
    heads = ("looks", "late s", "% of run", "1 s: looks", "late s", "5 s: looks", "late s")
    print(f"{'endpoint':24}" + "".join(f"{head:>12}" for head in heads))  # noqa: T201
    for name in ENDPOINTS:
        about, jobs = known(history(name), Load()), drawn(name, 400, "bench")
        calls, late = means([watched(about, job) for job in jobs])
        run = sum(run for _, run in jobs) / len(jobs)
        (calls_1, late_1), (calls_5, late_5) = every(1_000, jobs), every(5_000, jobs)
        told = (calls, late / 1000, 100 * late / run, calls_1, late_1 / 1000, calls_5, late_5 / 1000)
        print(f"{name:24}" + "".join(f"{figure:12.2f}" for figure in told))  # noqa: T201
    tried = [mixed(2.0 ** (power / 2), 60) for power in range(-16, 31)]
    for interval in (1_000, 5_000):
        calls, late = every(interval, [job for name in ENDPOINTS for job in drawn(name, 60, "mixed")])
        equal_calls = min(delay for looks, delay in tried if looks <= calls)
        equal_delay = min(looks for looks, delay in tried if delay <= late)
        print(  # noqa: T201
            f"all, fixed {interval / 1000:.0f} s: {calls:.1f} looks, {late / 1000:.2f} s late; planned: "
            f"at equal looks {equal_calls / 1000:.3f} s late ({100 * equal_calls / late:.0f} %), "
            f"at equal delay {equal_delay:.1f} looks ({100 * equal_delay / calls:.0f} %)"
        )


if __name__ == "__main__":
    main()
