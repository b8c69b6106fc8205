// The one way to the service. What passes by itself (a lost server, a full queue, a missing key) is waited
// out here; what the caller has to know comes as a ServiceError.

import { BINARY, decoded } from "./safetensors.js";

const KEY = "bearer";
const POLL_MS = 1000;

/** A problem (RFC 9457) that the service answered with. */
export class ServiceError extends Error {
  constructor(problem) {
    super(problem.detail || problem.title);
    this.status = problem.status;
    this.errors = problem.errors ?? [];
  }

  /** In sentences: what is wrong, and where. `name` makes words of a JSON pointer. */
  sentences(name = (pointer) => pointer) {
    if (!this.errors.length) return sentence(this.message);
    return this.errors.map(({ pointer, detail }) => sentence(`${name(pointer)}: ${detail}`)).join("\n");
  }
}

const sentence = (words) =>
  words.charAt(0).toUpperCase() + words.slice(1) + (/[.?!]$/.test(words) ? "" : ".");

/** How things stand: told `state` events with `detail.words` ("" when all is well). */
export const service = new EventTarget();

let asking = () => Promise.reject(new Error("nobody to ask for a key"));
/** Who asks the reader for a key: a function of the last refusal that promises one. */
export function asksForKey(ask) {
  asking = ask;
}

let returning = null;
let wantedKey = null;

/** GET a path; JSON, or an image as a Blob. */
export const get = (path) => exchange(path, {});

/** POST a body; JSON, or with `tensors` numbers as typed arrays. */
export function post(path, body, { tensors = false } = {}) {
  const headers = { "content-type": "application/json" };
  if (tensors) headers.accept = BINARY;
  return exchange(path, { method: "POST", body: JSON.stringify(body), headers });
}

/** Whether a key is in use. */
export const hasKey = () => sessionStorage.getItem(KEY) !== null;

async function exchange(path, options) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = key === null ? options.headers : { ...options.headers, authorization: `Bearer ${key}` };
    let reply;
    try {
      reply = await fetch(new URL(path, document.baseURI), { ...options, headers });
    } catch {
      await back("The service does not answer. This page goes on by itself as soon as it is back.");
      continue;
    }
    if (reply.ok) return await content(reply);
    const problem = await problemOf(reply);
    if (reply.status === 401) await newKey(key, problem);
    else if (reply.status === 429) await later(reply);
    else if ([502, 503].includes(reply.status)) {
      await back(`Not ready yet: ${problem.detail || "the service cannot be reached"}.`);
    } else throw new ServiceError(problem);
  }
}

async function content(reply) {
  const type = reply.headers.get("content-type") ?? "";
  if (type.startsWith("image/")) return reply.blob();
  return type.startsWith(BINARY) ? decoded(await reply.arrayBuffer()) : reply.json();
}

async function problemOf(reply) {
  try {
    return await reply.json();
  } catch {
    return { status: reply.status, title: `${reply.status} ${reply.statusText}`, detail: "" };
  }
}

/** Until the service is ready again; one loop for however many wait. */
function back(words) {
  tell(words);
  returning ??= (async () => {
    for (;;) {
      await pause(POLL_MS);
      try {
        const { status } = await fetch(new URL("readyz", document.baseURI), { cache: "no-store" });
        if (status === 200) break;
      } catch {
        // Still away.
      }
    }
    returning = null;
    tell("");
  })();
  return returning;
}

async function later(reply) {
  const seconds = Number(reply.headers.get("retry-after")) || 1;
  tell("The service has much to do; this page asks again in a moment.");
  await pause(1000 * seconds);
  tell("");
}

/** A key other than the one refused; one question for however many wait. */
async function newKey(refused, problem) {
  if (sessionStorage.getItem(KEY) !== refused) return;
  wantedKey ??= asking(refused === null ? "" : sentence(problem.detail || "this key is refused")).then(
    (key) => {
      sessionStorage.setItem(KEY, key);
      wantedKey = null;
    },
  );
  await wantedKey;
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const tell = (words) => service.dispatchEvent(new CustomEvent("state", { detail: { words } }));
