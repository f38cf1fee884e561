// A program as users write it with RunPod's own JavaScript package; prints what it saw as one JSON document.
import runpodSdk from "runpod-sdk";

const endpoint = runpodSdk("test-key", { baseUrl: process.env.RUNPOD_ENDPOINT_BASE_URL }).endpoint("demo");
const seen = {};

const job = await endpoint.run({ input: { mock_delay: 0.3, mock_return: { n: 1 } }, policy: { ttl: 60000 } });
seen.run = job;
seen.status = await endpoint.status(job.id);
seen.statusSync = await endpoint.statusSync(job.id);
seen.runSync = await endpoint.runSync({ input: { prompt: "hi" } });
seen.runSyncLong = await endpoint.runSync({ input: { mock_delay: 20, mock_return: "late" } }, 1000);

const streaming = await endpoint.run({ input: { mock_stream: ["a", "b", "c"], mock_delay: 0.2 } });
seen.stream = [];
for await (const chunk of endpoint.stream(streaming.id)) seen.stream.push(chunk.output);

const cancelled = await endpoint.run({ input: { mock_delay: 600 } });
seen.cancel = await endpoint.cancel(cancelled.id);
seen.failed = await endpoint.runSync({ input: { mock_error: "no" } });
seen.health = await endpoint.health();
seen.purge = await endpoint.purgeQueue();
seen.unknown = await endpoint.status("nothing").then(() => "found", () => "refused");

console.log(JSON.stringify(seen));
