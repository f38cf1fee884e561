// A receiver of the bridge's callbacks: verifies each, and does its work once, however often it comes.
//
//   npm install
//   CALLBACK_SECRET=whsec_... PORT=8080 node receiver.mjs      behind whatever speaks HTTPS for you
import { createServer } from "node:http";
import { Webhook } from "standardwebhooks";

const webhook = new Webhook(process.env.CALLBACK_SECRET);
const seen = new Set(); // yours: a unique column in the database that the work itself is written to

async function receive(request, response) {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  const body = Buffer.concat(pieces).toString("utf8"); // the bytes as they came: JSON written anew has another signature
  let event;
  try {
    event = webhook.verify(body, request.headers);
  } catch (error) {
    response.writeHead(400).end(error.message);
    return;
  }
  if (!seen.has(request.headers["webhook-id"])) {
    seen.add(request.headers["webhook-id"]);
    const { id, output = null, output_ref } = event.data; // one over 256 KiB is told as a reference: docs/services.md
    console.log(JSON.stringify({ type: event.type, id, output, output_ref }));
  }
  response.writeHead(204).end();
}

// Whoever hangs up in the middle of a body makes `receive` throw. Uncaught, that would end this process.
const server = createServer((request, response) => {
  receive(request, response).catch((error) => {
    console.error(`not received: ${error.message}`);
    if (!response.headersSent) response.writeHead(500);
    response.end();
  });
});

server.listen(Number(process.env.PORT ?? 8080), "127.0.0.1", () => console.log(`listening on ${server.address().port}`));
