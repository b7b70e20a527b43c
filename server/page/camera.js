// One camera.

import { follow, framePath, get, request } from "./api.js";
import { makeBandwidth } from "./bandwidth.js";
import { element, fillFigures, fillTable, say, showState as showStateOf } from "./dom.js";
import { DASH, age, clock, duration, exactClock, number, rate, shortClock, shown, size } from "./format.js";
import { makeElsewhere } from "./elsewhere.js";
import { makeHistory } from "./history.js";
import { makeOverlay, readImportance } from "./overlay.js";
import { noteSilence, stateOf } from "./overview.js";
import { showBoxes, showResults } from "./results.js";
import { makeTimeline } from "./timeline.js";
import { makeZones } from "./zones.js";

const REFRESH_MS = 4000;
// a picture that takes longer is told of
const SLOW_MS = 2500;
// live pictures come no faster
const PACE_MS = 80;
const FACTS = {
  captured: "Captured", sent: "Sent", skipped: "Left out, nothing new", dropped: "Dropped", thinned: "Given up, spool full",
  restarts: "Camera restarts", sent_of_kinds: "Sent, by kind", bytes_of_kinds: "Bytes sent, by kind",
  sent_bytes: "Sent, files", wire_bytes: "Sent, on the wire",
  bits_per_second: "Bit rate, last 10 s", queue_frames: "Waiting, frames", queue_bytes: "Waiting, size",
  age_seconds: "Age of newest frame", last_quality: "Last quality", last_bytes: "Last file",
  stage_seconds: "Time by stage", version: "Version", uptime_seconds: "Running for", resident_bytes: "Memory",
  open_files: "Open files", celsius: "Temperature", throttled: "Throttled", zones: "Zones of the server",
  own_zones_left_out: "Own zones not told",
};
const SHOWN_AS = { decoded: "decoded", plain: "as a plain viewer shows it", sent: "only the regions that were sent" };
const KINDS = { plain: "Ordinary JPEG", key: "Key, decoded by itself", patch: "Patch", follower: "Follower" };
const IMPORTANCE_MS = 30000;
const views = document.querySelectorAll("input[name=view]");
const overlays = document.querySelectorAll("input[name=overlay]");
const chosen = (inputs) => [...inputs].find((input) => input.checked).value;

export function open(name, frameId, { tokens, onRemoved }) {
  const base = `v1/cameras/${encodeURIComponent(name)}`;
  const overlay = makeOverlay();
  const history = makeHistory(name);
  const timeline = makeTimeline(name, pick);
  const bandwidth = makeBandwidth(base);
  const elsewhere = makeElsewhere(name, { tokens, onRemoved });
  const zones = makeZones(name, { tokens });
  const ended = new AbortController();
  const viewer = element("viewer"), stage = element("stage"), canvas = element("picture");
  let record = null;
  let live = frameId === null;
  // the frame that is to be shown, the one that is, and how many live ones there was no time for
  let wanted = null, current = null, passed = 0;
  let loading = null, target = null, running = false, shownKey = "", drawn = "", map = null;
  let steps = 0, stepping = false;
  let importance = null, shownData = null;

  for (const id of ["results", "boxes", "camera-figures", "frame-facts", "camera-facts", "device-facts"]) {
    element(id).replaceChildren();
  }
  for (const id of ["camera-notice", "caption", "stepped", "camera-state"]) say(element(id), "");
  element("device").hidden = true;
  known(true);
  canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
  overlay.draw("none", null, null);
  say(element("camera-name"), name);
  viewer.setAttribute("aria-label", `Pictures of camera ${name}`);
  canvas.setAttribute("aria-label", `No picture of camera ${name} yet`);
  note("Waiting for a picture…");
  showLive();

  // an unknown camera has nothing to show but that it is unknown
  function known(yes) {
    element("no-such-camera").hidden = yes;
    for (const id of ["camera-columns", "camera-figures"]) element(id).hidden = !yes;
  }

  function note(text) {
    say(element("stage-note"), text);
    element("stage-note").hidden = !text;
  }

  // --- pictures ---------------------------------------------------------------------------------------------

  const dataOf = () => ({ none: "none", importance: "importance" })[chosen(overlays)] ?? "map";

  const keyOf = () => `${wanted.id} ${chosen(views)} ${dataOf()}`;

  const drawnBy = (frame, view) => `${frame.id} ${view}`;

  // null: it is on the canvas already
  async function pictureOf(frame, view, signal) {
    if (drawn === drawnBy(frame, view)) return null;
    const path = framePath(name, frame.id, view === "plain" ? "/jpeg" :
      `/picture?format=jpeg${view === "sent" ? "&view=sent" : ""}`);
    const blob = await (await request(path, { signal })).blob();
    return createImageBitmap(blob, { imageOrientation: "none" });
  }

  async function mapOf(frame, signal) {
    if (map?.id !== frame.id) map = { id: frame.id, data: await get(framePath(name, frame.id, "/map"), { signal }) };
    return map.data;
  }

  // null: the camera has none
  async function importanceOf(signal) {
    if (importance === null || performance.now() - importance.readAt > IMPORTANCE_MS) {
      let data = null;
      try {
        data = readImportance(await (await request(`${base}/importance`, { signal })).arrayBuffer());
      } catch (error) {
        if (error.status !== 404) throw error;
      }
      importance = { readAt: performance.now(), data };
    }
    return importance.data;
  }

  function dataFor(frame, signal) {
    const kind = dataOf();
    return kind === "map" ? mapOf(frame, signal) : kind === "importance" ? importanceOf(signal) : null;
  }

  // Loads what is wanted until it is shown. While it does, newer frames only take the place of what comes next, so
  // that a slow network shows fewer frames and no old ones; what a person asks for does not wait.
  async function load(atOnce = false) {
    if (atOnce) loading?.abort();
    if (running) return;
    running = true;
    await loadAll();
    running = false;
  }

  async function loadAll() {
    while (wanted && !ended.signal.aborted && keyOf() !== shownKey) {
      const frame = wanted, key = keyOf(), view = chosen(views), began = performance.now();
      const mine = loading = new AbortController();
      target = frame;
      const signal = AbortSignal.any([mine.signal, ended.signal]);
      const slow = setTimeout(() => note("Slow network: the picture is still on its way…"), SLOW_MS);
      try {
        const [image, data] = await Promise.all([
          pictureOf(frame, view, signal), dataFor(frame, signal),
        ]);
        if (ended.signal.aborted) return;
        show(frame, view, image, data);
        shownKey = key;
        note("");
      } catch (error) {
        if (ended.signal.aborted) return;
        if (mine.signal.aborted) continue;
        shownKey = key;
        note(`Frame ${frame.id} can't be shown: ${error.message}`);
      } finally {
        clearTimeout(slow);
        loading = null;
      }
      if (live) await new Promise((resolve) => { setTimeout(resolve, PACE_MS - (performance.now() - began)); });
    }
  }

  function show(frame, view, image, data) {
    current = frame;
    stage.style.setProperty("--ratio", frame.width / frame.height);
    if (image) {
      [canvas.width, canvas.height] = [image.width, image.height];
      canvas.getContext("2d").drawImage(image, 0, 0);
      image.close();
      drawn = drawnBy(frame, view);
    }
    canvas.setAttribute("aria-label", `Frame ${frame.id} of camera ${name}, ${SHOWN_AS[view]}`);
    // the tiles of a follower lie elsewhere than in the frame
    const tiles = view === "plain" && (canvas.width !== frame.coding_width || canvas.height !== frame.coding_height);
    canvas.classList.toggle("tiles", tiles);
    shownData = tiles ? null : data;
    overlay.draw(tiles ? "none" : chosen(overlays), frame, shownData);
    showBoxes(element("boxes"), tiles ? null : frame.results, frame);
    showFrame(view);
    timeline.mark(frame);
  }

  function showFrame(view) {
    const frame = current;
    const captured = Date.parse(frame.capture_time), received = Date.parse(frame.received_time);
    say(element("caption"), `Frame ${frame.id}, ${shortClock(captured)}` +
      (canvas.classList.contains("tiles") ? `, the file's tiles in ${canvas.width}x${canvas.height}` :
        view === "plain" && canvas.width !== frame.width ? `, ${canvas.width}x${canvas.height} enlarged` : "") +
      (live && passed ? `, ${number(passed)} passed over` : ""));
    showResults(element("results"), frame.results);
    const quality = frame.mean_quality_luma === null ? "an ordinary JPEG" :
      `${number(frame.mean_quality_luma)} luma, ${number(frame.mean_quality_chroma)} chroma`;
    fillTable(element("frame-facts"), [
      ["Captured", exactClock(captured)],
      ["Received", received >= captured ? `${duration((received - captured) / 1000)} later` : exactClock(received)],
      ["Sequence", frame.sequence === null ? DASH : String(frame.sequence)],
      ["File", `${size(frame.bytes)}, ${number(frame.bpp)} bpp`],
      ["Kind", kindOf(frame)],
      ["Picture", `${frame.width}x${frame.height}`],
      ["Coded at", `${frame.coding_width}x${frame.coding_height}`],
      ["Mean quality", quality],
      ["Refinements", `${number(frame.refinement_bytes)} bytes`],
      ["Server's time", shown("ms", Object.fromEntries(Object.entries(frame.ms ?? {})
        .map(([stageName, ms]) => [stageName, `${number(ms)} ms`])))],
    ]);
    for (const [id, rest, end] of [["jpeg", "/jpeg", "jpg"], ["png", "/picture?format=png", "png"],
      ["map", "/map", "json"]]) {
      element(`get-${id}`).href = framePath(name, frame.id, rest);
      element(`get-${id}`).download = `${name}-${frame.id}.${end}`;
    }
  }

  function kindOf(frame) {
    const told = [KINDS[frame.kind] ?? DASH];
    if (typeof frame.kept === "number") told.push(`keeps ${number(100 * frame.kept)} % of the regions`);
    const bases = [frame.key_frame, frame.patch_frame].filter((id) => typeof id === "number");
    if (bases.length) told.push(`needs frame ${bases.join(" and ")}`);
    return told.join(", ");
  }

  function showLive() {
    element("live").setAttribute("aria-pressed", String(live));
  }

  // --- stepping ---------------------------------------------------------------------------------------------

  function setLive(on) {
    live = on;
    showLive();
    const query = new URLSearchParams({ camera: name });
    if (!live && wanted) query.set("frame", wanted.id);
    window.history.replaceState(null, "", `?${query}`);
    showState();
  }

  function goTo(frame) {
    wanted = frame;
    setLive(false);
    load(true);
    say(element("stepped"), `Frame ${frame.id}, ${clock(Date.parse(frame.capture_time))}`);
    if (!timeline.holds(frame)) timeline.refresh(record, frame, false).catch(trouble);
    else timeline.mark(frame);
  }

  async function goLive() {
    try {
      wanted = await get(framePath(name, "latest"));
    } catch (error) {
      trouble(error);
      return;
    }
    passed = 0;
    setLive(true);
    load(true);
    say(element("stepped"), "Live");
    timeline.refresh(record, wanted, true).catch(trouble);
  }

  async function step(by) {
    steps += by;
    if (stepping || !wanted) return;
    stepping = true;
    try {
      while (steps) {
        const taken = steps;
        steps = 0;
        const frame = await history.step(live && current ? current : wanted, taken);
        if (ended.signal.aborted) return;
        if (frame === null) { await goLive(); break; }
        goTo(frame);
      }
    } catch (error) {
      trouble(error);
    } finally {
      steps = 0;
      stepping = false;
    }
  }

  async function pick(milliseconds) {
    try {
      const frame = await history.near(milliseconds);
      if (frame && !ended.signal.aborted) goTo(frame);
    } catch (error) {
      trouble(error);
    }
  }

  const oldest = () => record && pick(Date.parse(record.first_capture_time) - 1);

  function trouble(error) {
    if (!ended.signal.aborted && error.status !== 401) note(`That did not work: ${error.message}`);
  }

  function keyed(event) {
    const arrows = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.shiftKey) {
      if (!(event.key in arrows) || !overlay.move(...arrows[event.key])) return;
    } else {
      const acts = {
        ArrowLeft: () => step(-1), ArrowRight: () => step(1), PageUp: () => step(-10), PageDown: () => step(10),
        Home: oldest, End: goLive,
      };
      if (!Object.hasOwn(acts, event.key)) return;
      acts[event.key]();
    }
    event.preventDefault();
  }

  // --- figures ----------------------------------------------------------------------------------------------

  function showState() {
    if (!record) return;
    const state = stateOf(record), { silent, seconds } = state;
    showStateOf(element("camera-state"), state);
    elsewhere.show(silent);
    const now = live && !silent && !state.unknown;
    say(element("badge"), now ? "Live" : live ? "Newest" : "Past");
    element("badge").className = now ? "live" : "";
    say(element("camera-notice"), silent && live && record.last_received_time ?
      `This camera has been silent since ${clock(Date.parse(record.last_received_time))}. Its last picture is shown.` : "");
    fillFigures(element("camera-figures"), [
      ["Age", Number.isNaN(seconds) ? DASH : age(seconds)],
      ["Frames/s", silent ? DASH : number(record.fps, 2)],
      ["Bit rate", silent ? DASH : rate(record.bitrate)],
      ["bpp", number(record.bpp || null)],
      ["Drops", record.drops === null ? DASH : number(record.drops), record.drops > 0],
    ]);
  }

  function showRecord() {
    showState();
    fillTable(element("camera-facts"), [
      ["Frames", number(record.frames)],
      ["Kept", size(record.bytes)],
      ["First", record.first_capture_time ? exactClock(Date.parse(record.first_capture_time)) : DASH],
      ["Last", record.last_capture_time ? exactClock(Date.parse(record.last_capture_time)) : DASH],
    ]);
    zones.hear(record.metrics ?? {});
    const said = Object.entries(record.metrics ?? {}).filter(([key]) => key !== "own_zones");
    element("device").hidden = said.length === 0;
    fillTable(element("device-facts"), said.map(([key, value]) =>
      [Object.hasOwn(FACTS, key) ? FACTS[key] : key.replaceAll("_", " "), shown(key, value)]));
  }

  async function refreshRecord() {
    record = noteSilence(await get(base, { signal: ended.signal }));
    known(true);
    showRecord();
  }

  // A person may have stepped away while the answer was on its way, and a newer frame may have come.
  async function wantNewest() {
    const frame = await get(framePath(name, "latest"), { signal: ended.signal });
    if (live && frame.id > (wanted?.id ?? 0)) wanted = frame;
  }

  // Where events are held back on their way, as some proxies do, the newest frame is seen here.
  async function overtake() {
    if (live && record.last_frame > (wanted?.id ?? 0)) {
      await wantNewest();
      load();
    }
  }

  // --- life -------------------------------------------------------------------------------------------------

  async function catchUp() {
    try {
      await refreshRecord();
      if (live) {
        await wantNewest();
      } else if (!wanted) {
        wanted = await get(framePath(name, frameId), { signal: ended.signal });
      }
    } catch (error) {
      if (error.status !== 404) throw error;
      note(record ? "This frame is not kept any more." : "Waiting for a picture…");
      if (!record) { known(false); live = true; showLive(); }
      return;
    }
    // what failed while the server was away may work now
    if (!current) shownKey = "";
    load();
    bandwidth.refresh(record).catch(() => {});
    await timeline.refresh(record, wanted, live);
  }

  const stopFollowing = follow(name, {
    catchUp,
    onFrame: (frame) => {
      if (!record) { catchUp().catch(() => {}); return; }
      if (frame.id > record.last_frame) {
        Object.assign(record, { last_frame: frame.id, last_received_time: frame.received_time });
        // of all that are kept, so the last one's only where it is later
        if (!(Date.parse(record.last_capture_time) > Date.parse(frame.capture_time))) {
          record.last_capture_time = frame.capture_time;
        }
        noteSilence(record, 0);
      }
      if (!live || (wanted && frame.id <= wanted.id)) return;
      if (wanted) passed += ![current?.id, target?.id].includes(wanted.id);
      wanted = frame;
      load();
    },
  });
  let round = 0;
  const refreshing = setInterval(() => {
    if (document.hidden) return;
    round += 1;
    refreshRecord().then(overtake).catch(() => {});
    if (live && record) timeline.refresh(record, wanted, true).catch(() => {});
    if (round % 3 === 0) bandwidth.refresh(record).catch(() => {});
  }, REFRESH_MS);
  const ticking = setInterval(showState, 1000);

  const options = { signal: ended.signal };
  const on = (id, act) => element(id).addEventListener("click", act, options);
  on("oldest", oldest);
  on("previous", () => step(-1));
  on("next", () => step(1));
  on("live", () => { if (live && wanted) goTo(current ?? wanted); else goLive(); });
  for (const input of [...views, ...overlays]) {
    input.addEventListener("change", () => {
      if (!wanted) return;
      // another overlay of the same map needs no loading
      if (keyOf() === shownKey && current && shownData) overlay.draw(chosen(overlays), current, shownData);
      load(true);
    }, options);
  }
  element("span").addEventListener("change", () => {
    timeline.refresh(record, wanted, live).catch(trouble);
  }, options);
  viewer.addEventListener("keydown", keyed, options);
  element("time").addEventListener("keydown", keyed, options);
  for (const kind of ["pointermove", "pointerdown"]) {
    stage.addEventListener(kind, (event) => {
      const { left, top, width, height } = stage.getBoundingClientRect();
      overlay.point((event.clientX - left) / width, (event.clientY - top) / height);
    }, options);
  }
  return () => {
    ended.abort();
    stopFollowing();
    for (const part of [timeline, bandwidth, elsewhere, zones]) part.close();
    // hidden is not gone: whoever logs out leaves no picture behind
    [canvas.width, canvas.height] = [4, 3];
    overlay.draw("none", null, null);
    element("boxes").replaceChildren();
    element("results").replaceChildren();
    for (const timer of [refreshing, ticking]) clearInterval(timer);
  };
}
