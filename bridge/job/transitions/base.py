"""What all transitions share: the rules, a draft of the change, and the end that was wished for."""

from __future__ import annotations

import json
from typing import Any

from bridge.job.change import Draft, Rules, wish_end
from bridge.job.document import Held
from bridge.job.enums import Wish
from bridge.job.record import Long


class Base:
    """A part of `Table`."""

    def __init__(self, rules: Rules) -> None:
        """The rules come from the settings."""
        self.rules = rules
        self.clock_offset = 0  # kept current by the ledger; only for the times that documents tell

    def _draft(self, held: Held, now: int) -> Draft:
        return Draft(held, now, self.rules, self.clock_offset)

    def _end_by_wish(self, draft: Draft) -> Draft:
        status, reason = wish_end(draft.record.wish)
        return draft.settle(status, reason, **self._wished(draft))

    def _wished(self, draft: Draft) -> dict[str, Any]:
        """Who wanted the end and why, as its event says it."""
        wished = json.loads(draft.text(Long.WISHED) or "{}")
        return {**_cause(draft.record.wish), **{k: v for k, v in wished.items() if v}}

    def _stand(self, draft: Draft) -> None:
        """The end that was heard last is the end, unless another was wished for."""
        if draft.record.wish:
            forget_attempt(draft)  # it belongs to the end that was heard
            self._end_by_wish(draft)
        else:
            draft.settle(draft.record.status, draft.record.reason)


def forget_attempt(draft: Draft) -> None:
    """What RunPod said of an earlier attempt and how it ended is not told of the end that comes now."""
    draft.set(
        delay_time=-1, execution_time=-1, worker_id="", platform_retries=0, left_out="", nonfinite=0, output_missing=0
    )
    draft.drop(Long.ERROR).result(None)


def _cause(wish: str) -> dict[str, str]:
    return {} if wish == Wish.CANCEL else {"cause": wish}
