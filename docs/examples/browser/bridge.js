// The bridge's HTTP door for a browser, or for any other place that has `fetch`. Nothing to install, nothing to build.

/** What the bridge has refused: `reason`, `field` and the sentence of its problem document. */
export class Refused extends Error {
  constructor(problem) {
    super(problem.detail ?? problem.title);
    Object.assign(this, { status: problem.status, reason: problem.reason, field: problem.field });
  }
}

const ENDS = new Set(["completed", "failed", "cancelled", "timed_out", "lost", "rejected"]);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Bridge {
  /** `token` may be empty on loopback, where the bridge has no tokens. */
  constructor(base, token) {
    this.base = base.replace(/\/$/, "");
    this.headers = token ? { authorization: `Bearer ${token}` } : {};
  }

  /** Submit a request document; its own document once the bridge holds it. Give an `id`, and it may be sent again. */
  submit(request) {
    return this.#json("/v1/requests", { method: "POST", body: JSON.stringify(request) });
  }

  /** The document as it is now. */
  status(id) {
    return this.#json(`/v1/requests/${encodeURIComponent(id)}`);
  }

  /** The whole output of a request that has ended. */
  output(id) {
    return this.#json(`/v1/requests/${encodeURIComponent(id)}/output`);
  }

  /** Cancel it in whatever phase it is. */
  cancel(id) {
    return this.#json(`/v1/requests/${encodeURIComponent(id)}/cancel`, { method: "POST", body: "{}" });
  }

  /** Its events as they are made, to its end: {id, type, data}. A lost connection goes on where it stopped. */
  async *events(id) {
    let last = "", wait = 1000, ended = false;
    while (!ended) {
      try {
        const headers = { ...this.headers, ...(last && { "last-event-id": last }) };
        const response = await this.#ask(`/v1/requests/${encodeURIComponent(id)}/events`, { headers });
        if (response.status === 204) return; // all was told before
        for await (const event of frames(response.body)) {
          last = event.id || last;
          wait = 1000;
          ended = ENDS.has(event.type); // after a retry more may follow: the answer's end says that this was the last
          yield event;
        }
      } catch (error) {
        if (error instanceof Refused && error.status < 500 && error.status !== 429) throw error;
        ended = false;
      }
      if (!ended) await pause(wait);
      wait = Math.min(wait * 2, 30_000);
    }
  }

  async #json(path, options = {}) {
    const headers = { ...this.headers, ...(options.body && { "content-type": "application/json" }) };
    return (await this.#ask(path, { ...options, headers })).json();
  }

  async #ask(path, options) {
    const response = await fetch(this.base + path, options);
    if (!response.ok) throw new Refused(await response.json().catch(() => ({ status: response.status, title: response.statusText })));
    return response;
  }
}

/** Server-sent events out of a body. `EventSource` would do it too, but it cannot send a token. */
async function* frames(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    let end;
    while ((end = text.indexOf("\n\n")) >= 0) {
      const fields = {};
      for (const line of text.slice(0, end).split("\n")) {
        const at = line.indexOf(":");
        if (at > 0) fields[line.slice(0, at)] = line.slice(at + 1).replace(/^ /, "");
      }
      text = text.slice(end + 2);
      if (fields.data) yield { id: fields.id, type: fields.event, data: JSON.parse(fields.data) };
    }
  }
}
