// Questions to the server: one picture is sent once, then named by its id.

const DEADLINE_S = 60;
const CHECK_MS = 3000;
const CHECK_TIMEOUT_MS = 2500;

/** An answer of the server, or of the connection, that is not a result. */
export class RequestError extends Error {
  constructor(message, { status = "failed", code = "", hint = "" } = {}) {
    super(message);
    Object.assign(this, { status, code, hint });
  }
}

/** Yield the JSON values of a response with one value per line, as they come. */
async function* jsonLines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    const lines = (rest + (value ?? "")).split("\n");
    rest = done ? "" : lines.pop();
    for (const line of lines) if (line.trim()) yield JSON.parse(line);
    if (done) return;
  }
}

export class Server {
  constructor(base) {
    this.base = new URL(".", base);
    this.origin = this.base.href.replace(/\/$/, "");
    this.token = "";
    this.frames = new WeakMap(); // picture → id at the server
    this.onLink = () => {};
  }

  request(path, options = {}) {
    const headers = { ...options.headers, ...(this.token ? { Authorization: `Bearer ${this.token}` } : {}) };
    return fetch(new URL(path, this.base), { ...options, headers, cache: "no-store", credentials: "omit" });
  }

  /**
   * Ask one question about a picture (a Blob).
   *
   * Returns {result, roundTripMs}; throws a RequestError, or an AbortError after `signal`.
   */
  async segment(picture, query, { signal, onStage }) {
    const began = performance.now();
    const frame = this.frames.get(picture);
    let answer;
    try {
      answer = await this.send(picture, frame, query, signal, onStage);
    } catch (error) {
      if (!(frame && error.code === "FRAME_NOT_KEPT")) throw error;
      this.frames.delete(picture);
      answer = await this.send(picture, undefined, query, signal, onStage);
    }
    this.frames.set(picture, answer.frame);
    return { result: answer.results[0], roundTripMs: performance.now() - began };
  }

  async send(picture, frame, query, signal, onStage) {
    const request = { queries: [query], deadline_s: DEADLINE_S, ...(frame ? { frame } : {}) };
    const body = new FormData();
    body.append("request", JSON.stringify(request));
    if (!frame) body.append("image", picture, "image");
    let answer = null;
    try {
      const response = await this.request("v1/segment", {
        method: "POST", body, signal, headers: { Accept: "application/x-ndjson" },
      });
      if (!response.ok) throw await errorOf(response);
      for await (const event of jsonLines(response)) {
        if (event.event === "stage") onStage(event.stage);
        if (event.event === "queue" && event.ahead) onStage(`waiting, ${event.ahead} ahead`);
        if (event.event === "error") throw new RequestError(event.message, event);
        if (event.event === "response") answer = event;
      }
    } catch (error) {
      if (error instanceof RequestError || error.name === "AbortError") throw error;
      this.check();
      throw new RequestError("The server does not answer", { hint: "It is asked again when it is back: press Ask" });
    }
    if (!answer) throw new RequestError("The server ended the connection before it answered", { hint: "Ask again" });
    return answer;
  }

  /** Return the newest picture of a camera as a File; the server has its frame. */
  async cameraPicture(name, signal) {
    const response = await this.request(`v1/cameras/${encodeURIComponent(name)}`, { signal });
    if (!response.ok) throw await errorOf(response);
    const blob = await response.blob();
    const picture = new File([blob], `${name}.jpg`, { type: blob.type });
    this.frames.set(picture, response.headers.get("x-xsam-frame"));
    return picture;
  }

  /** Report again and again whether the server is there and its model ready. */
  watch() {
    this.check();
    setInterval(() => document.visibilityState === "visible" && this.check(), CHECK_MS);
  }

  async check() {
    const options = { signal: AbortSignal.timeout(CHECK_TIMEOUT_MS) };
    try {
      const ready = await this.request("readyz", options);
      if (!ready.ok) {
        const { state } = await ready.json().catch(() => ({}));
        return this.onLink({ up: false, words: `the model is ${state ?? "not ready"}` });
      }
      const response = await this.request("v1/status", options);
      if (!response.ok) return this.onLink({ up: false, words: (await errorOf(response)).message });
      const { model, node, cameras } = await response.json();
      this.onLink({ up: true, words: "connected", model, node, cameras });
    } catch {
      this.onLink({ up: false, words: "the server does not answer" });
    }
  }
}

async function errorOf(response) {
  try {
    const { message, ...rest } = await response.json();
    return new RequestError(message, rest);
  } catch {
    return new RequestError(`The server answered ${response.status} ${response.statusText}`);
  }
}
