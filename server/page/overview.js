// All cameras.

import { follow, framePath, get, isGone } from "./api.js";
import { element, fillFigures, say, showState } from "./dom.js";
import { DASH, age, number, rate, size } from "./format.js";

const REFRESH_MS = 5000;
// of one camera; and so many at a time, for a browser has six connections to a server
const PICTURE_MS = 1000;
const MOST_LOADING = 3;
const SILENT_SECONDS = 10;
// in which order cameras are shown
const LIVE = 0, UNKNOWN = 1, SILENT = 2, NOTHING_YET = 3;

// Seconds since its last frame. Clocks that nobody sets count them: the server's until it told, the browser's since.
const silence = ({ silent_seconds: told, toldAt }) =>
  (typeof told === "number" ? told + (performance.now() - toldAt) / 1000 : NaN);

// notes on a record that the server has just told, or of which a frame has just come, how long a camera is silent
export function noteSilence(record, seconds = record.silent_seconds) {
  return Object.assign(record, { silent_seconds: seconds, toldAt: performance.now() });
}

// live: a frame came lately, by the camera's own pace. While the server is away nobody knows.
export function stateOf(camera) {
  if (!camera.last_received_time) return { silent: true, seconds: NaN, text: "Nothing yet" };
  const seconds = silence(camera);
  if (isGone() || Number.isNaN(seconds)) return { silent: false, unknown: true, seconds, text: "Not known" };
  const silent = seconds > (camera.fps > 0 ? Math.max(SILENT_SECONDS, 5 / camera.fps) : SILENT_SECONDS);
  return { silent, seconds, text: silent ? `Silent for ${age(seconds)}` : "Live" };
}

const rankOf = ({ silent, unknown, seconds }) =>
  (unknown ? UNKNOWN : !silent ? LIVE : Number.isNaN(seconds) ? NOTHING_YET : SILENT);

export function open({ tokens }) {
  const cards = new Map();
  const wanted = new Set();
  const list = element("cards");
  const field = element("filter").querySelector("input");
  let loading = 0, ended = false;
  list.replaceChildren();
  field.value = "";
  for (const id of ["no-camera", "no-match", "totals", "filter"]) element(id).hidden = true;

  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const card = [...cards.values()].find(({ item }) => item === entry.target);
      if (card) card.visible = entry.isIntersecting;
    }
    load();
  }, { rootMargin: "100px" });

  function cardOf(camera) {
    if (!cards.has(camera)) {
      const item = element("card").content.cloneNode(true).firstElementChild;
      const link = item.querySelector("a");
      link.textContent = camera;
      link.href = `?camera=${encodeURIComponent(camera)}`;
      const card = { item, record: null, pictureId: null, loadedAt: 0, visible: false };
      cards.set(camera, card);
      list.append(item);
      seen.observe(item);
    }
    return cards.get(camera);
  }

  function show(camera) {
    const { item, record } = cards.get(camera);
    const state = stateOf(record), { seconds } = state;
    showState(item.querySelector(".state"), state);
    item.classList.toggle("silent", state.silent);
    fillFigures(item.querySelector("dl"), [
      ["Age", Number.isNaN(seconds) ? DASH : age(seconds)],
      // a silent camera has no rates, whatever it had before
      ["Frames/s", state.silent ? DASH : number(record.fps, 2)],
      ["Bit rate", state.silent ? DASH : rate(record.bitrate)],
      ["bpp", number(record.bpp || null)],
      ["Drops", record.drops === null ? DASH : number(record.drops), record.drops > 0],
      ["Frames", number(record.frames)],
    ]);
  }

  function showAll() {
    const records = [...cards.values()].map((card) => card.record);
    const states = records.map(stateOf);
    for (const name of cards.keys()) show(name);
    sort();
    const silent = states.filter((state) => state.silent).length;
    const sending = records.filter((_, index) => !states[index].silent);
    fillFigures(element("totals"), [
      ["Cameras", number(records.length)],
      ["Live", number(states.filter((state) => !state.silent && !state.unknown).length)],
      ["Silent", number(silent), silent > 0],
      ["Frames/s", number(sending.reduce((sum, record) => sum + record.fps, 0))],
      ["Bit rate", rate(sending.reduce((sum, record) => sum + record.bitrate, 0))],
      ["Kept", size(records.reduce((sum, record) => sum + record.bytes, 0))],
    ]);
    element("totals").hidden = element("filter").hidden = records.length === 0;
    element("no-camera").hidden = records.length > 0;
  }

  // By state, and then by name. A card that stays where it is keeps the focus.
  function sort() {
    const ranks = new Map([...cards].map(([name, { record }]) => [name, rankOf(stateOf(record))]));
    const names = [...cards.keys()].sort((a, b) => ranks.get(a) - ranks.get(b) || (a < b ? -1 : 1));
    const focused = document.activeElement;
    names.forEach((name, index) => {
      const { item } = cards.get(name);
      if (list.children[index] !== item) list.insertBefore(item, list.children[index] ?? null);
    });
    if (list.contains(focused)) focused.focus();
  }

  function filter() {
    const text = field.value.trim().toLowerCase();
    let found = 0;
    for (const [name, { item }] of cards) {
      item.hidden = !name.toLowerCase().includes(text);
      found += !item.hidden;
    }
    element("no-match").hidden = found > 0 || cards.size === 0;
  }

  // The decoded picture, whatever the file shows by itself.
  function load() {
    for (const name of wanted) {
      const card = cards.get(name);
      if (loading >= MOST_LOADING || ended) return;
      if (!card?.visible || card.busy || Date.now() - card.loadedAt < PICTURE_MS) continue;
      const id = card.record.last_frame;
      wanted.delete(name);
      card.busy = true;
      card.loadedAt = Date.now();
      loading += 1;
      const picture = new Image();
      picture.alt = `Last frame of ${name}`;
      picture.src = framePath(name, id, "/picture?format=jpeg");
      picture.decode().then(
        () => {
          card.pictureId = id;
          card.item.querySelector("img").replaceWith(picture);
        },
        // gone meanwhile; the next frame is another chance
        () => {},
      ).finally(() => { card.busy = false; loading -= 1; load(); });
    }
  }

  function want(name) {
    const card = cards.get(name);
    if (card.record.last_frame !== card.pictureId) wanted.add(name);
  }

  async function refresh() {
    const cameras = [];
    for (let path = "v1/cameras"; path; ) {
      const page = await get(path);
      if (ended) return;
      cameras.push(...page.cameras);
      path = page.next?.replace(/^\//, "");
    }
    const names = new Set(cameras.map((record) => record.camera));
    for (const [name, card] of cards) {
      if (!names.has(name)) { card.item.remove(); cards.delete(name); wanted.delete(name); }
    }
    for (const record of cameras.map((each) => noteSilence(each))) {
      const card = cardOf(record.camera);
      // an event may have been faster
      if (card.record?.last_frame > record.last_frame) {
        const { last_frame, last_kind, last_received_time, silent_seconds, toldAt } = card.record;
        Object.assign(record, { last_frame, last_kind, last_received_time, silent_seconds, toldAt });
      }
      card.record = record;
      want(record.camera);
    }
    showAll();
    filter();
    load();
  }

  const origin = `${location.origin}${location.pathname.replace(/\/$/, "")}`;
  say(element("start-command"),
    `make capture ARGS="--source sample --server ${origin}${tokens ? " --token-file token" : ""}"`);
  element("start-token").hidden = !tokens;

  const stopFollowing = follow(null, {
    catchUp: refresh,
    onFrame: (frame) => {
      const card = cards.get(frame.camera);
      // a new camera has more to show than its frame
      if (!card) { refresh().catch(() => {}); return; }
      if (card.record.last_frame >= frame.id) return;
      card.record.last_frame = frame.id;
      card.record.last_kind = frame.kind;
      card.record.last_received_time = frame.received_time;
      noteSilence(card.record, 0);
      want(frame.camera);
      load();
    },
  });
  const clock = setInterval(() => { showAll(); load(); }, 1000);
  const refreshing = setInterval(() => { if (!document.hidden) refresh().catch(() => {}); }, REFRESH_MS);
  field.addEventListener("input", filter);
  return () => {
    ended = true;
    stopFollowing();
    clearInterval(clock);
    clearInterval(refreshing);
    seen.disconnect();
    field.removeEventListener("input", filter);
    // hidden is not gone: whoever logs out leaves no picture behind
    list.replaceChildren();
    cards.clear();
  };
}

element("copy").hidden = !navigator.clipboard;
element("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(element("start-command").textContent);
    say(element("copied"), "Copied.");
  } catch {
    say(element("copied"), "The browser does not allow it; select the text.");
  }
});
