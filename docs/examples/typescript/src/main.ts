// A typed service on Redis: submits a job, follows it, takes chunks and result, cancels another.
//
//     npm install && npm run build
//     REDIS_URL=redis://127.0.0.1:6379/0 npm start        (the database of BRIDGE_REDIS_URL)
//
// For outputs over 8 MiB also BRIDGE_HTTP_URL=http://127.0.0.1:9464 (a bridge worker with BRIDGE_API=on) and BRIDGE_TOKEN.

import { Bridge, JobError } from "./bridge.js";
import type { Document } from "./types.js";

// What a RunPod handler is given. These words are the emulator's (docs/emulator.md); put your own input here.
const INPUT = { mock_stream: ["once", "upon", "a time"], mock_return: "the end" };

const bridge = await Bridge.connect(process.env.REDIS_URL ?? "redis://127.0.0.1:6379/0", {
  http: process.env.BRIDGE_HTTP_URL,
  token: process.env.BRIDGE_TOKEN,
});

const job = await bridge.submit({ input: INPUT, stream: true, correlation_id: "order 66" });
const events: string[] = [];
const chunks: unknown[] = [];
let end: Document | undefined;
for await (const event of bridge.events(job)) {
  events.push(event.type);
  switch (event.type) {
    case "bridge.job.chunk":
      chunks.push(event.data.output); // of ChunkData
      break;
    case "bridge.job.completed":
      end = event.data; // a Document
      break;
  }
}

const long = await bridge.submit({ input: { mock_delay: 600 } });
await bridge.command({ op: "cancel", id: long.id, by: "typescript" });
let cancelled = "";
try {
  await bridge.result(long);
} catch (error) {
  if (!(error instanceof JobError)) throw error;
  cancelled = error.document.status;
}

console.log(
  JSON.stringify({ chunks, output: end && (await bridge.output(end)), correlation_id: end?.correlation_id, events, cancelled }),
);
await bridge.close();
