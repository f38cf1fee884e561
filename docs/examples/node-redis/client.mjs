// A service on Redis, in Node with the redis package: submits a job, follows it, takes chunks and result, cancels another.
//
//     npm install
//     REDIS_URL=redis://127.0.0.1:6379/0 node client.mjs        (the database of BRIDGE_REDIS_URL)

import { randomUUID } from "node:crypto";
import { createClient } from "redis";

// What a RunPod handler is given. These words are the emulator's (docs/emulator.md); put your own input here.
const INPUT = JSON.parse(
  process.env.INPUT ?? '{"mock_stream": ["once", "upon", "a time"], "mock_return": "the end"}',
);
const LONG_INPUT = JSON.parse(process.env.LONG_INPUT ?? '{"mock_delay": 600}');

const client = await createClient({ url: process.env.REDIS_URL }).connect();

function send(stream, document) {
  return client.xAdd(stream, "*", { data: JSON.stringify(document) });
}

// The events of one request in order, each once: one whose sequence is not above the last is a copy.
async function follow(stream, requestId, from) {
  const told = [];
  let cursor = from;
  let last = "";
  for (;;) {
    const found = await client.xRead({ key: stream, id: cursor }, { BLOCK: 60_000, COUNT: 100 });
    if (found === null) throw new Error(`nothing was heard of ${requestId} for 60 s`);
    for (const { id, message } of found[0].messages) {
      cursor = id;
      const event = JSON.parse(message.data);
      if (event.subject !== requestId || event.sequence <= last) continue;
      last = event.sequence;
      told.push(event);
      if (event.data.completed) return told;
    }
  }
}

// `reply_to: name` is the stream `bridge:reply:name`. It goes a week after the last reply.
const me = `node-${randomUUID()}`;
const newest = await client.xRevRange("bridge:events", "+", "-", { COUNT: 1 });
const now = newest[0]?.id ?? "0-0";

// The id is yours: the same id with the same content is never run twice, however often it is sent.
const job = `story-${randomUUID()}`;
await send("bridge:requests", {
  id: job,
  input: INPUT,
  stream: true,
  reply_to: me,
  correlation_id: "order 66",
});
const told = await follow(`bridge:reply:${me}`, job, "0-0");
const seen = await follow("bridge:events", job, now);

// A job that is not wanted any more, on its GPU or still waiting.
const longJob = `long-${randomUUID()}`;
await send("bridge:requests", { id: longJob, input: LONG_INPUT, reply_to: me });
await send("bridge:commands", { op: "cancel", id: longJob, by: "node-redis" });
const cancelled = (await follow(`bridge:reply:${me}`, longJob, "0-0")).at(-1);

const end = told.at(-1);
console.log(
  JSON.stringify({
    chunks: told.filter((event) => event.type === "bridge.job.chunk").map((event) => event.data.output),
    output: end.data.output,
    correlation_id: end.data.correlation_id,
    events: seen.map((event) => event.type),
    cancelled: cancelled.data.status,
  }),
);
await client.close();
