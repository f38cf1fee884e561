// The names of the TypeScript models that AsyncAPI's modelina makes of a document, as a JSON list.

import { readFileSync } from "node:fs";
import { TypeScriptGenerator } from "@asyncapi/modelina";

const generator = new TypeScriptGenerator({ modelType: "interface" });
const models = await generator.generate(JSON.parse(readFileSync(process.argv[2], "utf8")));
console.log(JSON.stringify(models.map((model) => model.modelName)));
