// A service on RabbitMQ, in Node with amqplib: submits a job, follows it, takes chunks and result, cancels another.
//
//     npm install
//     AMQP_URL=amqp://guest:guest@127.0.0.1:5672/ node client.mjs

import { randomUUID } from "node:crypto";
import amqp from "amqplib";

// What a RunPod handler is given. These words are the emulator's (docs/emulator.md); put your own input here.
const INPUT = JSON.parse(
  process.env.INPUT ?? '{"mock_stream": ["once", "upon", "a time"], "mock_return": "the end"}',
);
const LONG_INPUT = JSON.parse(process.env.LONG_INPUT ?? '{"mock_delay": 600}');

const connection = await amqp.connect(process.env.AMQP_URL);
const channel = await connection.createConfirmChannel();
channel.on("return", (message) => {
  // With `mandatory`: it was routed to no queue.
  throw new Error(`nobody takes ${message.fields.routingKey}`);
});

// What the bridge declares too, in case it has never run here. A queue that is there is used as it is.
async function declare(queue, key) {
  const look = await connection.createChannel();
  look.on("error", () => {});
  try {
    await look.checkQueue(queue);
    await look.close();
  } catch {
    await channel.assertQueue(queue, { durable: true });
  }
  await channel.bindQueue(queue, "bridge.jobs", key);
}
await channel.assertExchange("bridge.jobs", "topic", { durable: true });
await declare("bridge.requests", "job.submit.#");
await declare("bridge.commands", "job.command.#");

// A queue of this service for replies, which outlasts a connection as jobs do; and one for the events of all jobs.
const replies = (await channel.assertQueue("story-service-node", { durable: true })).queue;
const events = (await channel.assertQueue("", { exclusive: true })).queue;
await channel.assertExchange("bridge.events", "topic", { durable: true });
await channel.bindQueue(events, "bridge.events", "job.#");

async function send(key, document) {
  const options = { contentType: "application/json", persistent: true, mandatory: true };
  channel.publish("bridge.jobs", key, Buffer.from(JSON.stringify(document)), options);
  await channel.waitForConfirms();
}

// The events of one request in order, each once: one whose sequence is not above the last is a copy.
function follow(queue, requestId) {
  return new Promise((resolve, reject) => {
    const told = [];
    let last = "";
    const tag = randomUUID();
    const tooLate = setTimeout(() => reject(new Error(`nothing was heard of ${requestId}`)), 60_000);
    channel.consume(
      queue,
      (message) => {
        channel.ack(message);
        const event = JSON.parse(message.content.toString());
        if (event.subject !== requestId || event.sequence <= last) return;
        last = event.sequence;
        told.push(event);
        if (event.data.completed) {
          clearTimeout(tooLate);
          channel.cancel(tag).then(() => resolve(told), reject);
        }
      },
      { consumerTag: tag },
    );
  });
}

// The id is yours: the same id with the same content is never run twice, however often it is sent.
const job = `story-${randomUUID()}`;
await send("job.submit", {
  id: job,
  input: INPUT,
  stream: true,
  reply_to: replies,
  correlation_id: "order 66",
});
const told = await follow(replies, job);
const seen = await follow(events, job);

// A job that is not wanted any more, on its GPU or still waiting.
const longJob = `long-${randomUUID()}`;
await send("job.submit", { id: longJob, input: LONG_INPUT, reply_to: replies });
await send("job.command", { op: "cancel", id: longJob, by: "node-amqplib" });
const cancelled = (await follow(replies, longJob)).at(-1);

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
await connection.close();
