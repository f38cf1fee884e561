"""Makes the tables of docs/performance.md and the plots beside it from docs/performance/figures.json.

    scripts/bench report [--check]

A table stands between `<!-- bench: NAME -->` and `<!-- /bench -->`; of a bench that was run several times it tells the
median, and least and most behind it.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pygal
from pygal.style import Style

from tests.support.house import ROOT

PLACE = ROOT / "docs/performance"
FIGURES, PAGE = PLACE / "figures.json", ROOT / "docs/performance.md"
#: A load average before a bench that the one before it cannot have made.
BUSY = 5
NAMES = {
    "bridge": "**bridge**, one worker process",
    "plain": "Celery, 100 threads, `runpod` package",
    "requests": "Celery, 100 threads, `requests`",
    "gevent": "Celery, gevent 1,000, `runpod` package",
    "prefork": "Celery, prefork 20, `runpod` package",
    "asyncio": "asyncio by hand (no queue of Celery's, no promises)",
}
SHORT = {
    "bridge": "bridge",
    "plain": "100 threads",
    "requests": "100 threads, requests",
    "gevent": "gevent 1,000",
    "prefork": "prefork 20",
    "asyncio": "asyncio by hand",
}
Runs = dict[str, Any]


def spread(values: Iterable[float], form: str = "{:.0f}", unit: str = "") -> str:
    """Median, and least and most where there are several."""
    found = sorted(values)
    middle = f"{form.format(statistics.median(found))} {unit}".strip()
    return middle if len(found) == 1 else f"{middle} ({form.format(found[0])} to {form.format(found[-1])})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """As Markdown has it."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _each(runs: Runs, name: str, way: str, key: str) -> list[float]:
    return [one[way][key] for one in runs[name]["found"]]


def _over_plain(runs: Runs, name: str, key: str, way: str = "bridge") -> list[float]:
    return [one[way][key] / one["plain"][key] for one in runs[name]["found"]]


def _road(runs: Runs) -> str:
    rows = [
        ("jobs/s in the steady middle", spread(_each(runs, "road", "bridge", "steady_jobs_per_s")), "400"),
        ("jobs/s, whole run, over the plain way's", spread(_over_plain(runs, "road", "jobs_per_s"), "{:.1f}"), "6"),
        ("CPU a job over the plain way's", spread(_over_plain(runs, "road", "cpu_ms_per_job"), "{:.2f}"), "0.36"),
        ("CPU a job", spread(_each(runs, "road", "bridge", "cpu_ms_per_job"), "{:.2f}", "ms"), ""),
        (
            "Redis' CPU a job",
            spread(_each(runs, "road", "bridge", "redis_cpu_ms_per_job"), "{:.2f}", "ms"),
            "1.2 ms",
        ),
    ]
    return table(["", "measured", "aim"], rows)


def _busy(runs: Runs) -> str:
    found = [one["bridge"] for one in runs["road"]["found"]]
    names = list(found[0]["steady_busy"])
    row = [spread([one["steady_busy"][name] for one in found], "{:.2f}") for name in names]
    return table(["cores busy in the steady middle", *names], [["", *row]])


def _ways(runs: Runs) -> str:
    ways = [way for way in NAMES if way in runs["ways"]["found"][0]]
    rows = [
        (
            NAMES[way],
            spread(_each(runs, "ways", way, "jobs_per_s")),
            spread(_each(runs, "ways", way, "cpu_ms_per_job"), "{:.1f}", "ms"),
            spread(_over_plain(runs, "ways", "cpu_ms_per_job", way), "{:.2f}"),
            spread(_each(runs, "ways", way, "peak_mib"), unit="MiB"),
        )
        for way in ways
    ]
    return table(["", "jobs/s", "CPU a job", "over 100 threads'", "memory"], rows)


def _scale(runs: Runs) -> str:
    rows = []
    for name, what in (
        ("road", "1 process, Redis"),
        ("two", "2 processes, Redis"),
        ("four", "4 processes, Redis"),
        ("rabbitmq", "1 process, RabbitMQ"),
    ):
        if name in runs:
            busy = [sum(one["bridge"]["steady_busy"].values()) for one in runs[name]["found"]]
            rows.append(
                (
                    what,
                    spread(_each(runs, name, "bridge", "steady_jobs_per_s")),
                    spread(_each(runs, name, "bridge", "cpu_ms_per_job"), "{:.2f}", "ms"),
                    spread(_each(runs, name, "bridge", "redis_cpu_ms_per_job"), "{:.2f}", "ms"),
                    spread(_each(runs, name, "bridge", "peak_mib"), unit="MiB"),
                    spread(busy, "{:.2f}"),
                )
            )
    head = ["", "jobs/s, steady", "CPU a job", "Redis' CPU a job", "memory, together", "cores busy, all of it"]
    return table(head, rows)


def _result(runs: Runs) -> str:
    found = runs["result"]["found"][0]
    rows = [(name, *(f"{told[f'p{p}_ms']:,.0f} ms" for p in (50, 95, 99))) for name, told in found.items()]
    return table(["", "p50", "p95", "p99"], rows)


def _latency(runs: Runs) -> str:
    rows = []
    for name, what in (("idle", "idle"), ("beside", "100 jobs/s beside it")):
        if name in runs:
            found = runs[name]["found"]
            rows += [
                (
                    f"{words}, {what}",
                    *(spread([one[f"{key}_p{p}_ms"] for one in found], "{:.1f}", "ms") for p in (50, 95, 99)),
                )
                for words, key in (
                    ("`send_task` to RunPod's POST", "send_to_post"),
                    ("RunPod's end to the stored result, by webhook", "end_to_result"),
                )
            ]
    return table(["", "p50", "p95", "p99"], rows)


def _cancel(runs: Runs) -> str:
    told = runs["cancel"]["found"][0]
    row = [f"{told[f'message_to_cancel_p{p}_ms']:.1f} ms" for p in (50, 90, 99)]
    return table(["waiting in the ledger", "p50", "p90", "p99"], [[f"{told['accepted_and_waiting']:,}", *row]])


def _chord(runs: Runs) -> str:
    found = runs["chord"]["found"]
    row = [
        f"{found[0]['jobs']:,}",
        spread([one["apart"]["seconds"] for one in found], "{:.1f}", "s"),
        spread([one["chord"]["seconds"] for one in found], "{:.1f}", "s"),
        spread([one["times"] for one in found], "{:.2f}"),
    ]
    return table(["jobs of a second", "apart", "as a chord, until its body has run", "times"], [row])


def _intake(runs: Runs) -> str:
    found = runs["intake"]["found"]
    names = {"stream": "Redis stream", "amqp": "RabbitMQ"}
    rows = [
        (
            names[door],
            spread([one[door]["accepted_per_s"] for one in found]),
            spread([one[door]["cpu_ms_per_request"] for one in found], "{:.2f}", "ms"),
            spread([one[door]["peak_mib"] for one in found], unit="MiB"),
        )
        for door in found[0]
    ]
    return table(["door", "accepted a second", "CPU a request", "peak memory"], rows)


def _flight(runs: Runs) -> str:
    rows = [
        (
            f"{one['in_flight']:,}",
            f"{one['rss_mib']:.0f} MiB",
            f"{one['redis_mib']:.0f} MiB",
            f"{one['idle_cpu']:.2f} of a core",
            f"{one['cpu_ms_per_job']:.1f} ms",
        )
        for one in runs["flight"]["found"][0]["levels"]
    ]
    head = [
        "in flight",
        "memory of the process",
        "Redis, all of it",
        "CPU of watching, alone",
        "CPU of a job that passes",
    ]
    return table(head, rows)


def _start(runs: Runs) -> str:
    found = runs["start"]["found"][0]
    rows = [(name, f"{told['seconds']:.2f} s", f"{told['cpu_s']:.2f} s") for name, told in found.items()]
    return table(["", "by the clock", "CPU"], rows)


#: What each place of the page shows, and the benches that it is made from; the first of them must have run.
TABLES: dict[str, tuple[tuple[str, ...], Callable[[Runs], str]]] = {
    "road": (("road",), _road),
    "busy": (("road",), _busy),
    "ways": (("ways",), _ways),
    "scale": (("road", "two", "four", "rabbitmq"), _scale),
    "result": (("result",), _result),
    "latency": (("idle", "beside"), _latency),
    "cancel": (("cancel",), _cancel),
    "chord": (("chord",), _chord),
    "intake": (("intake",), _intake),
    "flight": (("flight",), _flight),
    "start": (("start",), _start),
}

#: Words that are read on white and on black alike (4.5 to 1 on both).
GREY = "#767676"
LOOK = Style(
    background="transparent",
    plot_background="transparent",
    foreground=GREY,
    foreground_strong=GREY,
    foreground_subtle=GREY,
    opacity="1",
    opacity_hover="1",
    colors=("#4c8eda", "#e08a3c", "#5aa469"),
    font_family="sans-serif",
    label_font_size=15,
    major_label_font_size=15,
    value_font_size=15,
    legend_font_size=15,
    title_font_size=18,
    value_colors=(GREY,) * 3,
)


def _bars(title: str, labels: Sequence[str], rows: Mapping[str, Sequence[float]], form: str) -> str:
    """One group of bars for each label."""
    chart = pygal.HorizontalBar(
        style=LOOK,
        js=[],
        title=title,
        width=800,
        height=110 + 34 * len(labels) * len(rows),
        print_values=True,
        print_values_position="top",
        show_legend=len(rows) > 1,
        legend_at_bottom=True,
        show_x_labels=False,
        show_x_guides=False,
        show_y_guides=False,
        value_formatter=("\u00a0" * 9 + form).format,  # beside the end of its bar, not over it
    )
    chart.x_labels = list(labels)
    for name, values in rows.items():
        chart.add(name, list(values))
    chart.uuid = "plot"
    # Without pygal's comments, one of which has today's date: what is made of the same figures is the same file.
    return re.sub("<!--.*?-->", "", str(chart.render(is_unicode=True))) + "\n"


def plots(runs: Runs) -> dict[str, str]:
    """By name of the file."""
    found = {}
    if "ways" in runs:
        ways = [way for way in reversed(SHORT) if way in runs["ways"]["found"][0]]
        for key, title, form in (
            ("jobs_per_s", "Jobs a second, jobs of 2 s, one worker", "{:,.0f}"),
            ("cpu_ms_per_job", "CPU a job, ms", "{:.1f}"),
        ):
            values = [statistics.median(_each(runs, "ways", way, key)) for way in ways]
            found[f"{key}.svg"] = _bars(title, [SHORT[way] for way in ways], {"": values}, form)
    if "result" in runs:
        told = runs["result"]["found"][0]
        names = list(reversed(told))
        rows = {f"p{p}": [told[name][f"p{p}_ms"] for name in names] for p in (50, 95)}
        found["result.svg"] = _bars("From a job's end to its caller, ms", names, rows, "{:,.0f}")
    if "flight" in runs:
        levels = runs["flight"]["found"][0]["levels"][::-1]
        rows = {"worker": [one["rss_mib"] for one in levels], "Redis": [one["redis_mib"] for one in levels]}
        labels = [f"{one['in_flight']:,} jobs" for one in levels]
        found["in_flight.svg"] = _bars("Memory by jobs in flight, MiB", labels, rows, "{:,.0f}")
    return found


def page(told: dict[str, Any], text: str) -> str:
    """The page with its tables made anew."""
    runs = told["runs"]
    for name, (benches, make) in TABLES.items():
        if benches[0] not in runs:
            continue
        head, tail = f"<!-- bench: {name} -->", "<!-- /bench -->"
        under = "; ".join(_source(runs[bench], told["machine"]["cpu"]) for bench in benches if bench in runs) + "."
        start, _, rest = text.partition(head)
        _, found, end = rest.partition(tail)
        if not found:
            raise SystemExit(f"scripts/bench report: {PAGE} has no place {head} ... {tail}")
        text = f"{start}{head}\n{make(runs)}\n\n{under}\n{tail}{end}"
    words = told["machine"]
    machine = (
        f"{words['cores']} cores ({words['cpu']}), {words['system']}, CPython {words['python']}, "
        f"{words['server']}, Celery {words['celery']}, `runpod` {words['runpod']}"
    )
    return re.sub("<!-- machine -->.*?<!-- /machine -->", lambda _: f"<!-- machine -->{machine}<!-- /machine -->", text)


def made(told: dict[str, Any]) -> dict[Path, str]:
    """All files that are made from the figures, and what is to stand in them."""
    drawn = {PLACE / name: text for name, text in plots(told["runs"]).items()}
    return {PAGE: page(told, PAGE.read_text()), **drawn}


def write(told: dict[str, Any]) -> None:
    """Page and plots."""
    for path, text in made(told).items():
        path.write_text(text)


def _source(run: dict[str, Any], cpu: str) -> str:
    """`cpu`: the one that the page names; what was measured on another says so."""
    count = len(run["found"])
    times = "one run" if count == 1 else f"median of {count} runs (least to most)"
    busy = run["load_before"] > BUSY
    others = f", while others used the machine (load average {run['load_before']:.0f})" if busy else ""
    elsewhere = f", on {run['cpu']}" if run["cpu"] != cpu else ""
    return f"`{run['command']}`, {run['date']}{elsewhere}, {times}{others}"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="scripts/bench report")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file would change")
    asked, told = parser.parse_args(), json.loads(FIGURES.read_text())
    if not asked.check:
        write(told)
        return
    stale = [path.name for path, text in made(told).items() if not path.exists() or path.read_text() != text]
    if stale:
        sys.exit(f"not what the figures say: {', '.join(stale)}; run scripts/bench report")


if __name__ == "__main__":
    main()
