"""One line of the table: where it is tried, who sends, and what was seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Drivers, environments and programs; made by running, and never committed.
CACHE = Path(__file__).parents[2] / ".compat"
ROOM = Path(__file__).parent
#: What is tried, in the order of the table.
COLUMNS = ("jobs", "states", "chain", "again", "cancel", "revoke")


class Missing(Exception):
    """A row cannot be tried here; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Place:
    """Servers that run, and what a bridge worker needs beside their addresses."""

    broker: str
    ledger: str
    results: str
    #: Further variables of all processes.
    environment: dict[str, str] = field(default_factory=dict)
    #: Celery settings of the producer.
    producer: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a producer is given: addresses and settings as Celery has them, and what to try."""

    broker: str
    results: str
    settings: dict[str, Any]
    columns: list[str]
    jobs: int

    @property
    def json(self) -> str:
        """As its first argument."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__})


@dataclass(frozen=True, slots=True)
class Row:
    """`at` gives the place for as long as it is tried; `sends` the command of a producer that prints [column, says]."""

    group: str
    name: str
    at: Callable[[Path], AbstractContextManager[Place]]
    sends: Callable[[], list[str]]
    settings: dict[str, Any] = field(default_factory=dict)  # of the producer
    overlay: dict[str, Any] = field(default_factory=dict)  # of the bridge worker: BRIDGE_CELERY_CONFIG
    jobs: int = 20
    #: Columns that cannot be, and why: an answer, not a fault.
    cannot: dict[str, str] = field(default_factory=dict)
    note: str = ""
