// celery-node as another team has it: twenty jobs, each with its own output. Prints [column, what was seen].
import { createRequire } from "node:module";

const asked = JSON.parse(process.argv[2]);
const celery = createRequire(`${process.env.COMPAT_NODE}/package.json`)("celery-node");
const client = celery.createClient(asked.broker, asked.results, "bridge.run");
const task = client.createTask("bridge.run");

const sent = [];
for (let n = 0; n < asked.jobs; n++) sent.push([n, task.applyAsync([], { input: { n } })]);
let right = 0;
try {
  for (const [n, result] of sent) if ((await result.get(120000)).n === n) right++;
  console.log(JSON.stringify(["jobs", `${right === sent.length ? "" : "FAILS: "}${right} of ${sent.length}`]));
} catch (error) {
  console.log(JSON.stringify(["jobs", `FAILS: ${error}`]));
}
process.exit(0);
