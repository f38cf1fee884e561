// A small typed client of the bridge over Redis streams. Copy it, and src/types.ts, into your service.

import { createHash, randomUUID } from "node:crypto";
import { AbortError, createClient, SocketClosedUnexpectedlyError } from "redis";
import type { CommandAnswer, Document, JobEvent, JsonCommand, JsonRequest } from "./types.js";

/** How a request ended that did not complete. */
export class JobError extends Error {
  constructor(readonly document: Document) {
    const said = typeof document.error === "string" ? `: ${document.error}` : "";
    super(`${document.id}: ${document.status}${document.reason ? ` (${document.reason})` : ""}${said}`);
  }
}

/** The request has completed, but this client cannot get its output; the message says who can. */
export class OutputUnavailable extends Error {
  constructor(
    readonly document: Document,
    why: string,
    options?: ErrorOptions,
  ) {
    super(`${document.id}: completed, but its output ${why}`, options);
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

/** Nothing was heard for so long. The request goes on: read its events again, or ask for its status. */
export class Silence extends Error {}

/** One sending of a request. Keep both names, and another process can go on reading where this one stopped. */
export interface Job {
  id: string;
  /** Of this sending alone: whoever uses the same id for another request hears its refusal, and nobody else does. */
  reply_to: string;
}

export interface Options {
  /** Where the bridge's HTTP API is (`BRIDGE_API=on`), such as http://bridge:9464: it gives outputs over 8 MiB. */
  http?: string;
  /** A token of the HTTP API with the right `read`. */
  token?: string;
  /** Hears that the connection to Redis was lost; it is made again, and what waits for replies goes on by itself. */
  onError?: (error: Error) => void;
}

/** What XREAD of one stream gives. */
type Found = [{ messages: { id: string; message: Record<string, string> }[] }];

export type End = Extract<JobEvent, { data: { completed: boolean } }>;

export function isEnd(event: JobEvent): event is End {
  return "completed" in event.data && event.data.completed === true;
}

export class Bridge {
  private constructor(
    private readonly redis: ReturnType<typeof createClient>,
    private readonly options: Options,
  ) {}

  /** While Redis is away this waits for it. */
  static async connect(url: string, options: Options = {}): Promise<Bridge> {
    return new Bridge(await opened(createClient({ url }), options), options);
  }

  async close(): Promise<void> {
    await this.redis.close();
  }

  /**
   * Its id is the idempotency key: give your own, and what is sent twice is run once. So when this throws because the
   * connection was lost, send the same again.
   */
  async submit(request: Omit<JsonRequest, "reply_to">): Promise<Job> {
    const job = { id: request.id ?? randomUUID(), reply_to: `ts.${randomUUID()}` };
    const told: JsonRequest = {
      reply_on: ["accepted", "submitted", "started", "progress", "chunk", "end"],
      ...(request as JsonRequest),
      ...job,
    };
    await this.redis.xAdd("bridge:requests", "*", { data: JSON.stringify(told) });
    return job;
  }

  /** The events of a request that was submitted here, in order, each once, to its end. Throws Silence. */
  async *events(job: Job, timeoutMs = 60_000): AsyncGenerator<JobEvent> {
    let last = "";
    for await (const event of this.replies<JobEvent>(job.reply_to, timeoutMs)) {
      // The refusal of an id that is none names no request; the stream is of this sending alone.
      if (event.type !== "bridge.job.rejected" && (event.subject !== job.id || event.sequence <= last)) continue;
      last = event.sequence;
      if (event.type === "bridge.job.chunk" && event.data.output_ref) await this.fill(job.id, event.data);
      yield event;
      if (isEnd(event)) return;
    }
  }

  /** The whole output. Throws JobError when the request ended in another way, OutputUnavailable, Silence. */
  async result(job: Job, timeoutMs = 60_000): Promise<unknown> {
    for await (const event of this.events(job, timeoutMs)) {
      if (isEnd(event)) return this.output(event.data, timeoutMs);
    }
    throw new Error(`${job.id} has not ended`);
  }

  /**
   * The output of an ended request. One over 8 MiB (BRIDGE_MESSAGE_LIMIT) is in no message: it is fetched from the
   * bridge's HTTP API, or by a link that an object store has signed.
   */
  async output(document: Document, timeoutMs = 60_000): Promise<unknown> {
    if (document.status !== "COMPLETED") throw new JobError(document);
    if (document.retained === false) throw new OutputUnavailable(document, "is not kept any more");
    const reference = document.output_ref;
    if (!reference) return document.output;
    const { http, token } = this.options;
    if (http && reference.href) {
      const headers: Record<string, string> = token ? { authorization: `Bearer ${token}` } : {};
      return this.download(document, new URL(reference.href, http), headers, timeoutMs);
    }
    let now: Document;
    try {
      now = (await this.command({ op: "status", id: document.id, content: true })) as Document;
    } catch (cause) {
      throw new OutputUnavailable(document, `cannot be asked for: ${(cause as Error).message}`, { cause });
    }
    if (!now.output_ref) return this.output(now, timeoutMs);
    if (now.output_ref.link) return this.download(now, new URL(now.output_ref.link.url), {}, timeoutMs);
    throw new OutputUnavailable(
      now,
      `of ${reference.size} bytes is in no message. Give connect() the address of the bridge's HTTP API (BRIDGE_API=on)` +
        ` as \`http\`, or let the bridge keep outputs in an object store that signs links (BRIDGE_BLOB_URL).` +
        ` \`bridge status ${document.id} --content\` prints it.`,
    );
  }

  /** Any command: cancel, status, retry, health ... Throws Refused, Silence. */
  async command(command: JsonCommand, timeoutMs = 15_000): Promise<unknown> {
    const reply_to = `ts.ask.${randomUUID()}`;
    await this.redis.xAdd("bridge:commands", "*", { data: JSON.stringify({ ...command, reply_to }) });
    for await (const answer of this.replies<CommandAnswer>(reply_to, timeoutMs)) {
      if (answer.type === "bridge.command.answered") return answer.data.result;
      throw new Refused(answer.data.reason, answer.data.error);
    }
    throw new Error("not answered");
  }

  /** A large chunk is whole in the request's own stream: chunk n is entry n+1. */
  private async fill(id: string, chunk: { index?: number | null; output?: unknown; output_ref?: unknown }): Promise<void> {
    const entry = `${(chunk.index ?? 0) + 1}`;
    const [found] = await this.redis.xRange(`bridge:chunks:${id}`, entry, entry);
    if (!found) return; // somebody has trimmed the stream: the reference stays
    chunk.output = JSON.parse(found.message.data).output;
    delete chunk.output_ref;
  }

  private async download(document: Document, url: URL, headers: Record<string, string>, timeoutMs: number): Promise<unknown> {
    let body: Buffer;
    try {
      const answer = await fetch(url, { headers, signal: AbortSignal.timeout(timeoutMs) });
      if (!answer.ok) throw new Error(`HTTP ${answer.status} ${(await answer.text()).slice(0, 300)}`);
      body = Buffer.from(await answer.arrayBuffer());
    } catch (cause) {
      throw new OutputUnavailable(document, `cannot be fetched from ${url.origin}: ${(cause as Error).message}`, { cause });
    }
    if (createHash("sha256").update(body).digest("hex") !== document.output_ref?.sha256) {
      throw new OutputUnavailable(document, `is another one at ${url.origin} by now: it was retried; ask for its status`);
    }
    return JSON.parse(body.toString("utf8"));
  }

  private async *replies<T>(name: string, timeoutMs: number): AsyncGenerator<T> {
    const reader = await opened(this.redis.duplicate(), this.options); // reading blocks its connection
    let until = Date.now() + timeoutMs;
    try {
      for (let cursor = "0-0"; ; ) {
        const left = until - Date.now();
        if (left <= 0) throw new Silence(`nothing was heard on ${name} for ${timeoutMs} ms`);
        const found = await read(reader, `bridge:reply:${name}`, cursor, left);
        for (const { id, message } of found) {
          cursor = id;
          yield JSON.parse(message.data) as T;
        }
        if (found.length) until = Date.now() + timeoutMs;
      }
    } finally {
      reader.destroy();
    }
  }
}

/** Connected, and with a listener: without one, a lost connection ends the Node process. */
async function opened(redis: ReturnType<typeof createClient>, options: Options): Promise<ReturnType<typeof createClient>> {
  redis.on("error", options.onError ?? ((error: Error) => console.error(`redis: ${error.message || error.name}`)));
  await redis.connect();
  return redis;
}

/** New entries; none when `ms` are over or the connection was lost: it is made again, and the next read goes on there. */
async function read(reader: ReturnType<typeof createClient>, key: string, id: string, ms: number): Promise<Found[0]["messages"]> {
  try {
    const within = reader.withAbortSignal(AbortSignal.timeout(ms)); // as long as there is no connection to block
    const found = await within.xRead({ key, id }, { BLOCK: ms, COUNT: 100 });
    return found ? (found as unknown as Found)[0].messages : [];
  } catch (error) {
    if (error instanceof AbortError) return [];
    const lost = error instanceof SocketClosedUnexpectedlyError || "syscall" in (error as Error); // closed, or reset
    if (!lost && !(error as Error).message.startsWith("LOADING")) throw error;
    await new Promise((resolve) => setTimeout(resolve, Math.min(200, ms)));
    return [];
  }
}
