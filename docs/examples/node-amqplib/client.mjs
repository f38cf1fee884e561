// A service on RabbitMQ, in Node with amqplib: submits a job, follows it, takes chunks and result, cancels another.
//
//     npm install
//     AMQP_URL=amqp://guest:guest@127.0.0.1:5672/ node client.mjs
//
// For outputs over 8 MiB also BRIDGE_HTTP_URL=http://127.0.0.1:9464 (a bridge worker with BRIDGE_API=on).

import { randomUUID } from "node:crypto";
import amqp from "amqplib";

// What a RunPod handler is given. These words are the emulator's (docs/emulator.md); put your own input here.
const INPUT = JSON.parse(
  process.env.INPUT ?? '{"mock_stream": ["once", "upon", "a time"], "mock_return": "the end"}',
);
const LONG_INPUT = JSON.parse(process.env.LONG_INPUT ?? '{"mock_delay": 600}');

// Queues of this service, which outlast its connections as jobs do: one for replies, one for the events of all jobs.
const REPLIES = "story-service-node";
const EVENTS = "story-service-node-events";

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
let closing = false;
let channel = opened();

// A channel that has declared what it needs and reads both queues. A broker that restarts closes it: another is opened then.
async function opened() {
  for (;;) {
    try {
      const connection = await amqp.connect(process.env.AMQP_URL);
      // Without a listener for `error`, a lost connection would end this process.
      connection.on("error", (error) => console.error(`amqp: ${error.message}`));
      connection.on("close", () => {
        if (!closing) channel = opened();
      });
      try {
        return await prepared(connection);
      } catch (error) {
        connection.removeAllListeners("close");
        await connection.close().catch(() => {});
        throw error;
      }
    } catch (error) {
      console.error(`amqp: ${error.message}; again in a second`);
      await pause(1000);
    }
  }
}

async function prepared(connection) {
  const made = await connection.createConfirmChannel();
  made.on("error", (error) => console.error(`amqp: ${error.message}`));
  // With `mandatory`: it was routed to no queue. The broker tells that before it confirms.
  made.on("return", ({ properties }) => nowhere.add(properties.messageId));
  await made.assertExchange("bridge.jobs", "topic", { durable: true });
  await declare(connection, made, "bridge.requests", "job.submit.#");
  await declare(connection, made, "bridge.commands", "job.command.#");
  await made.assertQueue(REPLIES, { durable: true });
  await made.assertQueue(EVENTS, { durable: true, expires: 3_600_000 });
  await made.assertExchange("bridge.events", "topic", { durable: true });
  await made.bindQueue(EVENTS, "bridge.events", "job.#");
  for (const queue of [REPLIES, EVENTS]) {
    await made.consume(queue, (message) => {
      if (message === null) return void connection.close(); // the queue was deleted: it is declared again
      take(queue, JSON.parse(message.content.toString()));
      made.ack(message);
    });
  }
  return made;
}

// What the bridge declares too, in case it has never run here. A queue that is there is used as it is.
async function declare(connection, made, queue, key) {
  const look = await connection.createChannel();
  look.on("error", () => {});
  try {
    await look.checkQueue(queue);
    await look.close();
  } catch {
    await made.assertQueue(queue, { durable: true });
  }
  await made.bindQueue(queue, "bridge.jobs", key);
}

// Confirmed by the broker. When the connection was lost before, it is sent again: a request that comes twice runs once.
const nowhere = new Set();
async function send(key, document) {
  const messageId = randomUUID();
  const options = { contentType: "application/json", persistent: true, mandatory: true, messageId };
  for (;;) {
    const made = await channel;
    try {
      made.publish("bridge.jobs", key, Buffer.from(JSON.stringify(document)), options);
      await made.waitForConfirms();
      break;
    } catch (error) {
      console.error(`amqp: ${error.message}; again in a second`);
      await pause(1000);
    }
  }
  if (nowhere.delete(messageId)) throw new Error(`nobody takes ${key}`);
}

// What is waited for. A reply is known by its request and its `correlation_id`, of which each sending has its own: who
// uses the same id for another request hears its refusal, and nobody else does.
const followed = new Map();
const nameOf = (queue, requestId, sending) => [queue, requestId, queue === REPLIES ? sending : ""].join(" ");
// The refusal of an id that is none names no request: this stands in its place, and the sending alone tells whose it is.
const NAMELESS = "unknown";

// The events of one request in order, each once: one whose sequence is not above the last is a copy.
function take(queue, event) {
  const one = followed.get(nameOf(queue, event.subject, event.data.correlation_id));
  if (!one || event.sequence <= one.last) return;
  one.last = event.sequence;
  one.told.push(event);
  if (queue === REPLIES && event.type === "bridge.job.rejected") one.end(new Error(`was refused: ${event.data.error}`));
  else if (event.data.completed) one.end();
}

// Begin before you send, so that nothing is told before.
function follow(queue, requestId, sending) {
  return new Promise((resolve, reject) => {
    const names = [nameOf(queue, requestId, sending)];
    if (queue === REPLIES) names.push(nameOf(queue, NAMELESS, sending));
    const one = { told: [], last: "", end: (error) => {
      clearTimeout(tooLate);
      for (const name of names) followed.delete(name);
      if (error) reject(new Error(`${requestId} ${error.message}`));
      else resolve(one.told);
    } };
    const tooLate = setTimeout(() => one.end(new Error("was not heard of for 60 s")), 60_000);
    for (const name of names) followed.set(name, one);
  });
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

await channel; // so that EVENTS is bound

// The id is yours: the same id with the same content is never run twice, however often it is sent.
const job = `story-${randomUUID()}`;
const order = `order 66 ${randomUUID()}`;
const both = Promise.all([follow(REPLIES, job, order), follow(EVENTS, job)]);
await send("job.submit", { id: job, input: INPUT, stream: true, reply_to: REPLIES, correlation_id: order });
const [told, seen] = await both;

// A job that is not wanted any more, on its GPU or still waiting.
const longJob = `long-${randomUUID()}`;
const sending = randomUUID();
const longEnd = follow(REPLIES, longJob, sending);
await send("job.submit", { id: longJob, input: LONG_INPUT, reply_to: REPLIES, correlation_id: sending });
await send("job.command", { op: "cancel", id: longJob, by: "node-amqplib" });
const cancelled = (await longEnd).at(-1);

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
closing = true;
await (await channel).connection.close();
