// A receiver of the bridge's callbacks: verifies each, and does its work once, however often it comes.
//
//   npm install
//   CALLBACK_SECRET=whsec_... PORT=8080 node receiver.mjs      behind whatever speaks HTTPS for you
import { createServer } from "node:http";
import { Webhook } from "standardwebhooks";

const webhook = new Webhook(process.env.CALLBACK_SECRET);
const seen = new Set(); // yours: a unique column in the database that the work itself is written to

const server = createServer(async (request, response) => {
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
    console.log(JSON.stringify({ type: event.type, id: event.data.id, output: event.data.output ?? null }));
  }
  response.writeHead(204).end();
});

server.listen(Number(process.env.PORT ?? 8080), "127.0.0.1", () => console.log(`listening on ${server.address().port}`));
