"""A receiver of the bridge's callbacks: verifies each, and does its work once, however often it comes.

pip install standardwebhooks
CALLBACK_SECRET=whsec_... PORT=8080 python receiver.py      behind whatever speaks HTTPS for you
"""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

webhook = Webhook(os.environ["CALLBACK_SECRET"])
seen = set()  # yours: a unique column in the database that the work itself is written to


class Receiver(BaseHTTPRequestHandler):
    """One path, one method."""

    def do_POST(self) -> None:
        """The body as it came: JSON that is written anew has another signature."""
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        try:
            event = webhook.verify(body, dict(self.headers))
        except (WebhookVerificationError, ValueError) as error:  # ValueError: a body or signature that is none
            self.send_error(400, str(error))
            return
        if self.headers["webhook-id"] not in seen:
            seen.add(self.headers["webhook-id"])
            told = {"type": event["type"], "id": event["data"]["id"], "output": event["data"].get("output")}
            print(json.dumps(told), flush=True)
        self.send_response(204)
        self.end_headers()


server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8080"))), Receiver)
print(f"listening on {server.server_address[1]}", flush=True)
server.serve_forever()
