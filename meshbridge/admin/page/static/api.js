// The bridge's API: one place where a token is sent and where it shows that the bridge is away.

const TOKEN = "meshbridge.token";
const SILENCE_MS = 45_000; // three of the stream's heartbeats
const ANSWER_MS = 15_000;
const DAEMON_SECONDS = 15; // for which the bridge waits for a daemon's answer; it may have to connect before
const DAEMON_MS = 30_000;

/** The bridge does not answer. */
export class Away extends Error {}

/** The bridge refuses; the message is its own (RFC 9457). */
export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail ?? problem.title ?? `the bridge answered ${status}`);
    this.status = status;
    this.byToken = status === 401 || status === 429; // 429: too many wrong ones; a right one is never turned away
  }
}

/** For this tab, and gone with it. */
export const token = {
  get: () => sessionStorage.getItem(TOKEN) ?? "",
  set: (text) => sessionStorage.setItem(TOKEN, text),
  forget: () => sessionStorage.removeItem(TOKEN),
};

/** Listeners for requests that reached no server. */
export const contact = new EventTarget();

/** Parts of a path, each as one. */
export const path = (...parts) => parts.map(encodeURIComponent).join("/");

export async function get(where, query = {}) {
  return (await asked("GET", where, patiently(where, { query }))).json();
}

export async function post(where, body) {
  return (await asked("POST", where, patiently(where, { body }))).json();
}

export async function remove(where) {
  return (await asked("DELETE", where, patiently(where, {}))).json();
}

/** Saves an answer as a file, under the name that the bridge gives it. */
export async function download(where, query) {
  const response = await asked("GET", where, { query });
  const name = /filename="([^"]+)"/.exec(response.headers.get("Content-Disposition") ?? "")?.[1] ?? "download";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await response.blob());
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** How long is waited. That a daemon is silent the bridge says in time, or else the bridge itself would seem to be. */
function patiently(where, { query, body }) {
  if (!ofDaemon(where)) return { query, body, signal: AbortSignal.timeout(ANSWER_MS) };
  return { query: { ...query, timeout: DAEMON_SECONDS }, body, signal: AbortSignal.timeout(DAEMON_MS) };
}

const ofDaemon = (where) => where.startsWith("daemons/");

/** The parts of a long answer as text, as they come, until it ends. Raises Away where it goes silent. */
export async function* streamed(where, { query, headers, signal }) {
  const silence = new AbortController();
  let timer = setTimeout(() => silence.abort(), SILENCE_MS);
  try {
    const response = await asked("GET", where, { query, headers, signal: AbortSignal.any([signal, silence.signal]) });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE_MS);
      yield value;
    }
  } catch (error) {
    if (signal.aborted || error instanceof Refused) throw error;
    throw new Away("The stream has broken off", { cause: error });
  } finally {
    clearTimeout(timer);
  }
}

/** Lines of what is streamed; the last one only when it has its end. */
export async function* lines(parts) {
  let rest = "";
  for await (const part of parts) {
    const found = (rest + part).split("\n");
    rest = found.pop();
    yield found;
  }
}

async function asked(method, where, { query = {}, body, headers = {}, signal }) {
  const url = new URL(`api/v1/${where}`, document.baseURI);
  for (const [name, value] of Object.entries(query))
    for (const one of [value].flat()) if (one !== undefined && one !== "") url.searchParams.append(name, one);
  const sent = { ...headers };
  const shown = token.get();
  if (shown) sent.Authorization = `Bearer ${shown}`;
  if (body !== undefined) sent["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(url, {
      method,
      headers: sent,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      credentials: "omit",
      cache: "no-store",
      redirect: "error",
    });
  } catch (error) {
    if (error.name === "TimeoutError" && ofDaemon(where)) throw new Refused(504, { detail: "No answer in time" });
    if (error.name !== "AbortError") contact.dispatchEvent(new Event("lost"));
    throw new Away("The bridge does not answer", { cause: error });
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  const refused = new Refused(response.status, problem);
  // Not of a request that was sent with the token before: there may be another by now.
  if (refused.byToken && shown === token.get()) contact.dispatchEvent(new CustomEvent("refused", { detail: problem.detail }));
  throw refused;
}
