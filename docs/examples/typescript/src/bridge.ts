// A small typed client of the bridge over Redis streams. Copy it, and src/types.ts, into your service.

import { randomUUID } from "node:crypto";
import { createClient } from "redis";
import type { CommandAnswer, Document, JobEvent, JsonCommand, JsonRequest } from "./types.js";

/** How a request ended that did not complete. */
export class JobError extends Error {
  constructor(readonly document: Document) {
    super(`${document.id}: ${document.status}${document.reason ? ` (${document.reason})` : ""}`);
  }
}

/** A command was refused; `reason` busy means: send it again. */
export class Refused extends Error {
  constructor(
    readonly reason: string,
    message: string,
  ) {
    super(message);
  }
}

/** What XREAD of one stream gives. */
type Found = [{ messages: { id: string; message: Record<string, string> }[] }];

export type End = Extract<JobEvent, { data: { completed: boolean } }>;

export function isEnd(event: JobEvent): event is End {
  return "completed" in event.data && event.data.completed === true;
}

export class Bridge {
  private constructor(private readonly redis: ReturnType<typeof createClient>) {}

  static async connect(url: string): Promise<Bridge> {
    const redis = createClient({ url });
    await redis.connect();
    return new Bridge(redis);
  }

  async close(): Promise<void> {
    await this.redis.close();
  }

  /** Returns the id, which is the idempotency key: give your own, and what is sent twice is run once. */
  async submit(request: JsonRequest): Promise<string> {
    const id = request.id ?? randomUUID();
    const told: JsonRequest = {
      reply_on: ["accepted", "submitted", "started", "progress", "chunk", "end"],
      ...request,
      id,
      reply_to: `ts.${id}`,
    };
    await this.redis.xAdd("bridge:requests", "*", { data: JSON.stringify(told) });
    return id;
  }

  /** The events of a request that was submitted here, in order, each once, to its end. */
  async *events(id: string, timeoutMs = 60_000): AsyncGenerator<JobEvent> {
    let last = "";
    for await (const event of this.replies<JobEvent>(`ts.${id}`, timeoutMs)) {
      if (event.subject !== id || (event.sequence <= last && event.type !== "bridge.job.rejected")) continue;
      last = event.sequence;
      yield event;
      if (isEnd(event)) return;
    }
  }

  /** The output. Throws JobError when the request ended in another way. */
  async result(id: string, timeoutMs = 60_000): Promise<unknown> {
    for await (const event of this.events(id, timeoutMs)) {
      if (event.type === "bridge.job.completed") return event.data.output;
      if (isEnd(event)) throw new JobError(event.data);
    }
    throw new Error(`${id} has not ended`);
  }

  /** Any command: cancel, status, retry, health ... Throws Refused. */
  async command(command: JsonCommand, timeoutMs = 15_000): Promise<unknown> {
    const reply_to = `ts.ask.${randomUUID()}`;
    await this.redis.xAdd("bridge:commands", "*", { data: JSON.stringify({ ...command, reply_to }) });
    for await (const answer of this.replies<CommandAnswer>(reply_to, timeoutMs)) {
      if (answer.type === "bridge.command.answered") return answer.data.result;
      throw new Refused(answer.data.reason, answer.data.error);
    }
    throw new Error("not answered");
  }

  private async *replies<T>(name: string, timeoutMs: number): AsyncGenerator<T> {
    const reader = this.redis.duplicate(); // reading blocks its connection
    await reader.connect();
    try {
      for (let cursor = "0-0"; ; ) {
        const found = await reader.xRead({ key: `bridge:reply:${name}`, id: cursor }, { BLOCK: timeoutMs, COUNT: 100 });
        if (!Array.isArray(found)) throw new Error(`nothing was heard on ${name} for ${timeoutMs} ms`);
        for (const { id, message } of (found as unknown as Found)[0].messages) {
          cursor = id;
          yield JSON.parse(message.data) as T;
        }
      }
    } finally {
      reader.destroy();
    }
  }
}
