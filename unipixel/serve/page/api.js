/** The server, spoken to: requests, uploads, event streams, and the sentence in every refusal. */

const KEY = "unipixel.key";
const SESSIONS = "v1/sessions";

/** What the server refused, in its own words; status 0 if it did not answer. */
export class Refused extends Error {
  constructor(message, { status = 0, code = "" } = {}) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

let key = sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY) ?? "";
let asking = null;
let askForKey = async () => null;

/** Say who asks the visitor for a key: called with whether one was refused, gives {key, keep} or null. */
export function keysFrom(ask) {
  askForKey = ask;
}

function keyHeaders() {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** Ask the visitor for a key, once for all requests that wait for it. Whether there is a new one. */
async function renewKey() {
  asking ??= askForKey(key !== "").finally(() => (asking = null));
  const given = await asking;
  if (!given) return false;
  key = given.key;
  sessionStorage.setItem(KEY, key);
  if (given.keep) localStorage.setItem(KEY, key);
  else localStorage.removeItem(KEY);
  return true;
}

function refusal(status, text) {
  try {
    const { message, code } = JSON.parse(text).error;
    return new Refused(sentence(message), { status, code });
  } catch {
    return new Refused(`The server answered with status ${status}.`, { status });
  }
}

function sentence(words) {
  const begun = words.charAt(0).toUpperCase() + words.slice(1);
  return /[.!?]$/.test(begun) ? begun : `${begun}.`;
}

/** A response that is fine. A missing key is asked for. */
export async function request(path, { method = "GET", body, signal, query, keepalive = false } = {}) {
  const address = query ? `${path}?${new URLSearchParams(query)}` : path;
  for (;;) {
    const headers = keyHeaders();
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const sent = key;
    let response;
    try {
      response = await fetch(address, {
        method,
        headers,
        signal,
        keepalive,
        body: body === undefined ? undefined : JSON.stringify(body),
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused("The server cannot be reached. Is it still running?", { code: "unreachable" });
    }
    if (response.ok) return response;
    const refused = refusal(response.status, await response.text());
    const isNew = response.status === 401 && (sent !== key || (await renewKey()));
    if (!isNew) throw refused;
  }
}

/** The JSON of a response. */
export async function json(path, options) {
  return (await request(path, options)).json();
}

/** Path of a session, or of something in it. */
export function sessionPath(id, ...rest) {
  return [SESSIONS, id, ...rest].map((part, i) => (i ? encodeURIComponent(part) : part)).join("/");
}

/** Events of work as {name, data}, until it is done. */
export async function* work(path, body, signal) {
  const response = await request(path, { method: "POST", body: { ...body, stream: true }, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      let from = Math.max(0, rest.length - 1); // a long event is not searched again with every piece of it
      rest += value;
      for (let end = rest.indexOf("\n\n", from); end >= 0; end = rest.indexOf("\n\n")) {
        const found = event(rest.slice(0, end));
        rest = rest.slice(end + 2);
        if (found?.text === "[DONE]") return;
        if (found) yield checked(found);
      }
    }
  } catch (error) {
    if (error instanceof TypeError)
      throw new Refused("The connection to the server was lost.", { code: "unreachable" });
    throw error;
  } finally {
    reader.cancel().catch(() => {});
  }
  throw new Refused("The connection ended before the work did.", { code: "unreachable" });
}

function event(block) {
  const fields = { name: "", text: null };
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) fields.name = line.slice(7);
    if (line.startsWith("data: ")) fields.text = line.slice(6);
  }
  return fields.text === null ? null : fields;
}

function checked({ name, text }) {
  if (name === "error" || name === "stopped") throw refusal(name === "stopped" ? 409 : 500, text);
  return { name, data: JSON.parse(text) };
}

/** Send a file to become a session. `told` hears which part of it, 0 to 1, has been sent. */
export function upload(file, options, told, signal) {
  const form = new FormData();
  for (const [name, value] of Object.entries(options)) form.append(name, value);
  form.append("file", file);
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest(); // fetch does not tell how far it is
    sending.open("POST", `${SESSIONS}/upload`);
    for (const [name, value] of Object.entries(keyHeaders())) sending.setRequestHeader(name, value);
    sending.upload.onprogress = (at) => told(at.lengthComputable ? at.loaded / at.total : 0);
    sending.onload = async () => {
      if (sending.status < 300) return resolve(JSON.parse(sending.responseText));
      if (sending.status === 401 && (await renewKey()))
        return upload(file, options, told, signal).then(resolve, reject);
      reject(refusal(sending.status, sending.responseText));
    };
    sending.onerror = () =>
      reject(
        new Refused("The upload did not get through. The server ended it, or cannot be reached.", {
          code: "unreachable",
        }),
      );
    sending.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    signal.addEventListener("abort", () => sending.abort());
    sending.send(form);
  });
}

/** Open a session about what is behind an address. */
export function openAddress(url, options, signal) {
  return json(SESSIONS, { method: "POST", body: { url, ...options }, signal });
}

/** The sessions that there are. */
export async function sessions() {
  return (await json(SESSIONS)).sessions;
}
