// Reads the document whose path is given, and prints what the official parser says of it.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const { document, diagnostics } = await new Parser().parse(readFileSync(process.argv[2], "utf8"));
const errors = diagnostics.filter((one) => one.severity === 0).map((one) => `${one.path.join(".")}: ${one.message}`);
const told = document ? { channels: document.allChannels().length, messages: document.allMessages().length } : {};
console.log(JSON.stringify({ errors, ...told }));
