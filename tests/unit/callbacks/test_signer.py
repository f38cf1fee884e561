"""Signatures, and secrets that change while the bridge runs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from bridge.callbacks.signer import Signer
from bridge.engine.tell.callbacks import message_id
from bridge.errors import SettingsError
from bridge.settings import load
from bridge.settings.callbacks import secrets_of
from tests.support.receiver import OLD_SECRET, SECRET

BODY = '{"id":"order-1:5","data":{"output":"ü"}}'


def test_the_official_library_takes_what_was_signed_and_nothing_that_was_changed(tmp_path: Path) -> None:
    """Body, id and time are under the signature."""
    headers = Signer(secret_file(tmp_path, SECRET)).headers("order-1:5", BODY)
    assert Webhook(SECRET).verify(BODY, headers)["id"] == "order-1:5"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    for changed in ({"webhook-id": "order-2:5"}, {"webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)}):
        with pytest.raises(WebhookVerificationError):
            Webhook(SECRET).verify(BODY, headers | changed)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(BODY.replace("ü", "u"), headers)


def test_two_secrets_sign_both_so_that_receivers_change_over_one_by_one(tmp_path: Path) -> None:
    """The new one stands first; with either of them a callback is genuine, and with the old one alone no more later."""
    path = secret_file(tmp_path, OLD_SECRET)
    signer = Signer(path)
    assert verifies(signer, OLD_SECRET) and not verifies(signer, SECRET)  # noqa: PT018
    path.write_text(f"# since May\n{SECRET}\n{OLD_SECRET}\n")
    assert verifies(signer, OLD_SECRET) and verifies(signer, SECRET)  # noqa: PT018
    assert signer.headers("a:1", BODY)["webhook-signature"].count("v1,") == 2
    path.write_text(f"{SECRET}\n")
    assert verifies(signer, SECRET) and not verifies(signer, OLD_SECRET)  # noqa: PT018


def test_a_file_that_has_become_unusable_changes_nothing(tmp_path: Path) -> None:
    """What was read before goes on signing: a slip of an editor must not silence callbacks for everybody."""
    path = secret_file(tmp_path, SECRET)
    signer = Signer(path)
    assert verifies(signer, SECRET)
    for text in ("", "whsec_short", f"{SECRET}\n{OLD_SECRET}\n{SECRET}", "-----BEGIN KEY-----"):
        path.write_text(text)
        assert verifies(signer, SECRET)
    path.unlink()
    assert verifies(signer, SECRET)


@pytest.mark.parametrize(
    "text", ["", "# nothing", "secret", "whsec_", "whsec_c2hvcnQ=", "whsec_!!!", SECRET[6:], SECRET * 2]
)
def test_a_secret_that_is_none_refuses_the_start_and_is_not_repeated(text: str, tmp_path: Path) -> None:
    """24 to 64 bytes in base64 behind whsec_, as Standard Webhooks has it."""
    with pytest.raises(SettingsError) as caught:
        load(celery_broker_url="redis://127.0.0.1:1/0", bridge_callback_secret_file=secret_file(tmp_path, text))
    assert "BRIDGE_CALLBACK_SECRET_FILE" in str(caught.value)
    assert len(text) < 12 or text not in str(caught.value)


def test_a_secret_without_padding_or_of_either_length_is_taken() -> None:
    """The shortest and the longest."""
    import base64  # noqa: PLC0415

    for size in (24, 64):
        assert secrets_of("whsec_" + base64.b64encode(bytes(range(size))).decode())


def test_an_id_under_the_signature_holds_no_full_stop() -> None:
    """`id.time.body` could else be cut in another place; a percent sign stands in no request's id, so none collide."""
    assert message_id("v1.2:3") == "v1%2E2:3"
    assert message_id("order-1:5") == "order-1:5"


def secret_file(directory: Path, text: str) -> Path:
    """As a mounted secret."""
    path = directory / "callback-secret"
    path.write_text(text)
    return path


def verifies(signer: Signer, secret: str) -> bool:
    """Whether a receiver that knows this secret takes what is signed now."""
    try:
        Webhook(secret).verify(BODY, signer.headers("order-1:5", BODY))
    except WebhookVerificationError:
        return False
    return True
