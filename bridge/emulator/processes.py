"""RunPod workers that are real processes of an unmodified handler, driven over RunPod's worker protocol."""

from __future__ import annotations

from pathlib import Path

from bridge.emulator.answers import NOT_FOUND, Answer
from bridge.emulator.builtin import BuiltinFleet
from bridge.emulator.endpoint import Endpoint


class ProcessFleet(BuiltinFleet):
    """Being written."""

    def __init__(self, endpoint: Endpoint, file: Path) -> None:
        super().__init__(endpoint)
        self.file = file
        self.origin = ""

    async def gone(self) -> None:
        """Wait until all processes are gone."""


class Protocol:
    """Being written."""

    def __init__(self, endpoints: dict[str, Endpoint]) -> None:
        self.endpoints = endpoints

    async def answer(self, name: str, op: str, rest: str, body: bytes, query: dict[str, str]) -> Answer:
        """Answer a RunPod worker."""
        return NOT_FOUND
