"""/openai/v1/*: turned into a job, as worker-vllm gets it."""

from __future__ import annotations

from typing import Any


def test_a_chat_completion_becomes_a_job_with_route_and_input(call: Any) -> None:
    """The built-in RunPod worker echoes what it got."""
    asked = {"model": "m", "messages": []}
    answer = call.post("openai/v1/chat/completions", json=asked)
    assert answer.json() == {"openai_route": "/v1/chat/completions", "openai_input": asked}


def test_models_is_a_bare_route(call: Any) -> None:
    """GET, without body."""
    assert call.get("openai/v1/models").json() == {"openai_route": "/v1/models"}


def test_openai_wants_key_and_json(call: Any) -> None:
    """RunPod's errors here too."""
    assert call.get("openai/v1/models", headers={"Authorization": "x"}).status_code == 401
    assert call.post("openai/v1/completions", content=b"x").status_code == 400
    call.emulator.fault("out_of_credit", op="openai")
    assert call.get("openai/v1/models").status_code == 402
