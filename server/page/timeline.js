// The bytes of a piece of time as bars, and the place of the shown frame in it.

import { get, serverNow } from "./api.js";
import { showAlerts } from "./alerts.js";
import { element, say } from "./dom.js";
import { clock, duration, exactClock, number, size } from "./format.js";

const BINS = 120;
// as the server has it
const MOST_OF_A_CLIP = 5000;
const SVG = "http://www.w3.org/2000/svg";

export function makeTimeline(camera, onPick) {
  const slider = element("time"), bars = element("bars"), choice = element("span");
  const ended = new AbortController();
  let since = 0, until = 0, request = 0, held = false;
  choice.value = "";
  bars.replaceChildren();
  showFollowers([], 0);
  showAlerts([], since, until, pickTime);
  showClip(0);

  // what is to be shown: up to now, or around a frame that is older than that
  function place(record, frame, live) {
    const last = Date.parse(record.last_capture_time), first = Date.parse(record.first_capture_time);
    const time = frame ? Date.parse(frame.capture_time) : last;
    // a frame from another year, of a camera whose clock is wrong or was, moves nothing but itself
    const end = live ? Math.max(serverNow(), time + 1) : Math.max(serverNow(), last + 1);
    // at first so much that there is something to see
    if (!choice.value) choice.value = end - last > 3.6e6 ? "all" : end - first < 6e5 ? "600" : "3600";
    if (choice.value === "all") {
      // at least a second, and not up to the edge
      const margin = Math.max(500, 0.01 * (last - first));
      [since, until] = [first - margin, last + margin];
      return;
    }
    const length = 1000 * Number(choice.value);
    if (!live && time >= since && time <= until && Math.abs(until - since - length) < 1) return;
    until = live || time > end - length ? end : Math.min(end, time + length / 2);
    since = until - length;
  }

  async function refresh(record, frame, live) {
    if (!record?.last_capture_time) return;
    place(record, frame, live);
    const [begin, end] = [since, until], mine = request += 1;
    mark(frame);
    const times = { since: new Date(begin).toISOString(), until: new Date(end).toISOString() };
    const base = `v1/cameras/${encodeURIComponent(camera)}`;
    const [{ bins }, { alerts }] = await Promise.all([
      get(`${base}/timeline?${new URLSearchParams({ ...times, bins: BINS })}`),
      get(`${base}/alerts?${new URLSearchParams(times)}`),
    ]);
    if (ended.signal.aborted || mine !== request) return;
    const most = Math.max(...bins.map((bin) => bin.bytes));
    bars.setAttribute("viewBox", `0 0 ${bins.length} 100`);
    while (bars.childElementCount > bins.length) bars.lastElementChild.remove();
    bins.forEach((bin, index) => {
      const bar = bars.children[index] ?? bars.appendChild(document.createElementNS(SVG, "rect"));
      // what is there shows, however little it is
      const height = bin.frames ? Math.max(4, 100 * bin.bytes / most) : 0;
      bar.setAttribute("x", index + 0.08);
      bar.setAttribute("width", 0.84);
      bar.setAttribute("y", 100 - height);
      bar.setAttribute("height", height);
    });
    showFollowers(bins, most);
    say(element("since"), clock(begin));
    say(element("until"), clock(end));
    showAlerts(alerts, begin, end, pickTime);
    const frames = bins.reduce((sum, bin) => sum + bin.frames, 0);
    showClip(frames, `${base}/clip?${new URLSearchParams({ ...times, format: "mp4" })}`);
    say(element("most"), frames ? `${number(frames)} ${frames === 1 ? "frame" : "frames"}, at most ${size(most)} in ` +
      `${duration((end - begin) / 1000 / bins.length)}` : "No frames in this time");
  }

  // the upper part of each bar: what is of followers and patches
  function showFollowers(bins, most) {
    const all = bins.reduce((sum, bin) => sum + bin.bytes, 0);
    const theirs = bins.reduce((sum, bin) => sum + (bin.follower_bytes ?? 0), 0);
    const over = element("follower-bars");
    over.setAttribute("viewBox", `0 0 ${Math.max(bins.length, 1)} 100`);
    over.firstElementChild.setAttribute("d", bins.map((bin, index) => {
      if (!bin.follower_bytes) return "";
      const height = Math.max(4, 100 * bin.bytes / most);
      return `M${index + 0.08} ${100 - height}h.84v${height * bin.follower_bytes / bin.bytes}h-.84z`;
    }).join(""));
    element("bar-kinds").hidden = !theirs;
    say(element("key-bytes"), `${size(all - theirs)} of keys`);
    say(element("follower-bytes"), `${size(theirs)} of followers`);
  }

  function showClip(frames, path) {
    const fits = frames > 0 && frames <= MOST_OF_A_CLIP;
    element("clip").hidden = !fits;
    if (fits) element("clip").href = path;
    element("clip-note").hidden = frames <= MOST_OF_A_CLIP;
    say(element("clip-note"), `A clip holds ${number(MOST_OF_A_CLIP)} frames at most: show a shorter time.`);
  }

  function mark(frame) {
    if (!frame || until <= since) return;
    const time = Date.parse(frame.capture_time);
    // it stays where a hand holds it
    if (!held) slider.value = 1000 * (time - since) / (until - since);
    slider.setAttribute("aria-valuetext", `${exactClock(time)}, frame ${frame.id}`);
  }

  const holds = (frame) => { const time = Date.parse(frame.capture_time); return time >= since && time <= until; };

  // the frame that was captured then, where it can be seen
  function pickTime(milliseconds) {
    onPick(milliseconds + 1);
    element("viewer").scrollIntoView({ block: "nearest" });
  }

  function pick() { onPick(since + (until - since) * Number(slider.value) / 1000); }

  const options = { signal: ended.signal };
  slider.addEventListener("input", pick, options);
  slider.addEventListener("pointerdown", () => { held = true; }, options);
  for (const kind of ["pointerup", "pointercancel"]) slider.addEventListener(kind, () => { held = false; }, options);
  return { refresh, mark, holds, close: () => ended.abort() };
}
