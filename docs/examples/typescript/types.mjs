// Makes src/types.ts of the bridge's JSON Schemas: a named type for every request, command, event, document and answer.
//
//     node types.mjs ../../schema src/types.ts
//
// The schemas are docs/schema, or what `bridge schema --write DIRECTORY` writes.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { compile } from "json-schema-to-typescript";

const [from, to] = process.argv.slice(2);
const names = ["request", "command", "document", "event", "endpoint-event", "command-answer", "dead-letter", "chunk"];

// One file for all of them, so that what they share is one type.
const $defs = {};
for (const name of names) {
  const { $id, $schema, $defs: inner, ...schema } = JSON.parse(readFileSync(join(from, `${name}.json`), "utf8"));
  Object.assign($defs, inner, { [schema.title]: schema });
}
const all = { title: "Everything", anyOf: Object.keys($defs).sort().map((name) => ({ $ref: `#/$defs/${name}` })), $defs };
const bannerComment = "// Made by types.mjs of docs/schema. Do not edit.";
writeFileSync(to, await compile(all, "Everything", { bannerComment, additionalProperties: false }));
