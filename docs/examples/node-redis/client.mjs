// A service on Redis, in Node with the redis package: submits a job, follows it, takes chunks and result, cancels another.
//
//     npm install
//     REDIS_URL=redis://127.0.0.1:6379/0 node client.mjs        (the database of BRIDGE_REDIS_URL)
//
// For outputs over 8 MiB also BRIDGE_HTTP_URL=http://127.0.0.1:9464 (a bridge worker with BRIDGE_API=on).

import { randomUUID } from "node:crypto";
import { createClient, SocketClosedUnexpectedlyError } from "redis";

// What a RunPod handler is given. These words are the emulator's (docs/emulator.md); put your own input here.
const INPUT = JSON.parse(
  process.env.INPUT ?? '{"mock_stream": ["once", "upon", "a time"], "mock_return": "the end"}',
);
const LONG_INPUT = JSON.parse(process.env.LONG_INPUT ?? '{"mock_delay": 600}');

// Without a listener, a lost connection would end this process. With one, the connection is made again.
const client = createClient({ url: process.env.REDIS_URL });
client.on("error", (error) => console.error(`redis: ${error.message || error.name}`));
await client.connect();

function send(stream, document) {
  return client.xAdd(stream, "*", { data: JSON.stringify(document) });
}

// `reply_to: name` is the stream `bridge:reply:name`. It goes a week after the last reply. Each sending has its own: who
// uses the same id for another request hears its refusal, and nobody else does.
async function submit(request) {
  const reply_to = `node-${randomUUID()}`;
  await send("bridge:requests", { ...request, reply_to });
  return `bridge:reply:${reply_to}`;
}

// New entries; none when the connection was lost: it is made again, and the next read goes on at the same place.
async function read(stream, cursor) {
  try {
    return await client.xRead({ key: stream, id: cursor }, { BLOCK: 60_000, COUNT: 100 });
  } catch (error) {
    const lost = error instanceof SocketClosedUnexpectedlyError || "syscall" in error; // closed, or reset
    if (!lost && !error.message.startsWith("LOADING")) throw error;
    await new Promise((resolve) => setTimeout(resolve, 200));
    return [{ messages: [] }];
  }
}

// The events of one request in order, each once: one whose sequence is not above the last is a copy.
async function follow(stream, requestId, from) {
  const told = [];
  let cursor = from;
  let last = "";
  for (;;) {
    const found = await read(stream, cursor);
    if (found === null) throw new Error(`nothing was heard of ${requestId} for 60 s`);
    for (const { id, message } of found[0].messages) {
      cursor = id;
      const event = JSON.parse(message.data);
      // The refusal of an id that is none names no request; a stream of replies is of this sending alone.
      const refused = event.type === "bridge.job.rejected" && stream !== "bridge:events";
      if (refused) throw new Error(`${requestId} was refused: ${event.data.error}`);
      if (event.subject !== requestId || event.sequence <= last) continue;
      last = event.sequence;
      told.push(event);
      if (event.data.completed) return told;
    }
  }
}

// The whole output. One over 8 MiB (BRIDGE_MESSAGE_LIMIT) is in no message: the bridge's HTTP API gives it.
async function outputOf({ id, status, reason, output, output_ref }) {
  if (status !== "COMPLETED") throw new Error(`${id}: ${status} (${reason})`);
  if (!output_ref) return output;
  const base = process.env.BRIDGE_HTTP_URL;
  if (!base) throw new Error(`${id}: its output of ${output_ref.size} bytes is at ${output_ref.href}: set BRIDGE_HTTP_URL`);
  const answer = await fetch(new URL(output_ref.href, base));
  if (!answer.ok) throw new Error(`${id}: its output cannot be had: HTTP ${answer.status}`);
  return answer.json();
}

const newest = await client.xRevRange("bridge:events", "+", "-", { COUNT: 1 });
const now = newest[0]?.id ?? "0-0";

// The id is yours: the same id with the same content is never run twice, however often it is sent.
const job = `story-${randomUUID()}`;
const replies = await submit({ id: job, input: INPUT, stream: true, correlation_id: "order 66" });
const told = await follow(replies, job, "0-0");
const seen = await follow("bridge:events", job, now);

// A job that is not wanted any more, on its GPU or still waiting.
const longJob = `long-${randomUUID()}`;
const longReplies = await submit({ id: longJob, input: LONG_INPUT });
await send("bridge:commands", { op: "cancel", id: longJob, by: "node-redis" });
const cancelled = (await follow(longReplies, longJob, "0-0")).at(-1);

const end = told.at(-1);
console.log(
  JSON.stringify({
    chunks: told.filter((event) => event.type === "bridge.job.chunk").map((event) => event.data.output),
    output: await outputOf(end.data),
    correlation_id: end.data.correlation_id,
    events: seen.map((event) => event.type),
    cancelled: cancelled.data.status,
  }),
);
await client.close();
