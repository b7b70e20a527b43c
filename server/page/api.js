// The server: requests, and events that are opened again for ever.

import { element, say } from "./dom.js";

const TIMEOUT_MS = 15000;
// the server sends something at least every 15 s
const SILENCE_MS = 40000;
const LONGEST_WAIT_MS = 15000;

let skew = 0;
let onRefused = () => {};

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export function whenRefused(callback) { onRefused = callback; }

// now by the server's clock, whose times all others are
export const serverNow = () => Date.now() + skew;

export const framePath = (camera, id, rest = "") =>
  `v1/cameras/${encodeURIComponent(camera)}/frames/${encodeURIComponent(id)}${rest}`;

export async function request(path, options = {}) {
  const limit = AbortSignal.timeout(options.timeout ?? TIMEOUT_MS);
  const signal = options.signal ? AbortSignal.any([options.signal, limit]) : limit;
  let answer;
  try {
    answer = await fetch(path, { ...options, signal });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiError(error.name === "TimeoutError" ? "the server takes too long" : "the server can't be reached", 0);
  }
  const date = Date.parse(answer.headers.get("Date") ?? "");
  // a header has whole seconds, and travels
  if (Number.isFinite(date)) skew = Math.abs(date - Date.now()) > 3000 ? date - Date.now() : 0;
  if (answer.ok) return answer;
  let text = `the server answered ${answer.status}`;
  try {
    const told = await answer.json();
    if (typeof told.error === "string") text = told.error;
  } catch { /* not JSON */ }
  if (answer.status === 401 && (options.method ?? "GET") === "GET") onRefused();
  throw new ApiError(text, answer.status);
}

export async function get(path, options = {}) {
  const answer = await request(path, options);
  try {
    return await answer.json();
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiError("the server's answer broke off", 0);
  }
}

// whether the server answered when it was last asked
export const isGone = () => element("connection").dataset.state === "gone";

function state(name, text) {
  const line = element("connection");
  line.dataset.state = name;
  say(line, text);
}

// Events of one camera, or of all (null). `catchUp` is called after every opening, before any event: it fetches what
// may have been missed. Gives a function that ends it.
export function follow(camera, { catchUp, onFrame }) {
  const path = camera === null ? "v1/events" : `v1/events?camera=${encodeURIComponent(camera)}`;
  let source = null, timer = 0, watch = 0, failures = 0, ended = false;

  function stop() {
    source?.close();
    source = null;
    clearTimeout(timer);
    clearTimeout(watch);
  }

  function alive() {
    clearTimeout(watch);
    watch = setTimeout(() => failed(), SILENCE_MS);
  }

  async function failed(reason = "The server does not answer") {
    stop();
    if (ended) return;
    failures += 1;
    const wait = Math.min(500 * 2 ** failures, LONGEST_WAIT_MS);
    // one that comes back at once is not worth a word
    if (failures > 1) state("gone", `${reason}. Trying again…`);
    timer = setTimeout(open, wait);
  }

  async function open() {
    stop();
    if (ended || document.hidden) return;
    try {
      // an EventSource doesn't say why it fails, so what may be missing is asked for first
      await catchUp();
    } catch (error) {
      if (!ended && error.status !== 401) failed(error.status ? `The server says: ${error.message}` : undefined);
      return;
    }
    if (ended || document.hidden) return;
    const opened = source = new EventSource(path);
    let first = true;
    alive();
    opened.onopen = alive;
    opened.onerror = () => { if (source === opened) failed("Live updates broke off"); };
    opened.addEventListener("heartbeat", up);
    // events that this page was too slow for
    opened.addEventListener("dropped", () => catchUp().catch(() => {}));
    opened.addEventListener("frame", (event) => {
      up();
      let frame;
      try { frame = JSON.parse(event.data); } catch { return; }
      onFrame(frame);
    });
    async function up() {
      alive();
      failures = 0;
      state("up", "Connected");
      if (first) {
        first = false;
        // what came between the first question and the opening
        try { await catchUp(); } catch { if (source === opened) failed("Live updates broke off"); }
      }
    }
  }

  function shownOrHidden() {
    if (document.hidden) stop();
    else open();
  }

  document.addEventListener("visibilitychange", shownOrHidden);
  open();
  return () => {
    ended = true;
    stop();
    document.removeEventListener("visibilitychange", shownOrHidden);
  };
}

export { state as connectionState };
