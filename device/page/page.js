"use strict";
// Everything from /status goes into the page as text, never as HTML: error messages hold what others sent.

const REFRESH_MS = 2000;
// A browser keeps only six connections to one host. The rest of the cameras come as single pictures.
const MAX_STREAMS = 2;
// A browser doesn't tell that a stream has ended, so each is opened anew after so long.
const STREAM_MS = 30000;
const NAMES = {
  captured: "Frames captured", sent: "Frames sent", skipped: "Left out, nothing new", dropped: "Dropped",
  sent_of_kinds: "Sent, by kind", bytes_of_kinds: "Sent, files by kind",
  thinned: "Given up, spool full", restarts: "Camera restarts", sent_bytes: "Sent, files",
  wire_bytes: "Sent, on the wire", bits_per_second: "Bit rate, last 10 s", queue_frames: "Waiting, frames",
  queue_bytes: "Waiting, size", age_seconds: "Age of newest frame", last_quality: "Last quality",
  last_bytes: "Last file", zones: "Zones of the server", stage_seconds: "Last frame's time", version: "Version",
  uptime_seconds: "Running for",
  resident_bytes: "Memory", open_files: "Open files", celsius: "Temperature", throttled: "Throttled",
};
const sections = new Map();
let paused = false;
let connected = false;
let round = 0;

function size(bytes) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (bytes < 1000) return `${+bytes.toPrecision(3)} ${unit}`;
    bytes /= 1000;
  }
  return `${+bytes.toPrecision(3)} TB`;
}

function duration(seconds) {
  if (seconds < 1) return `${+(1000 * seconds).toPrecision(3)} ms`;
  if (seconds < 120) return `${+seconds.toPrecision(3)} s`;
  const minutes = Math.floor(seconds / 60), hours = Math.floor(minutes / 60), days = Math.floor(hours / 24);
  if (hours < 1) return `${minutes} min`;
  return days < 1 ? `${hours} h ${minutes % 60} min` : `${days} d ${hours % 24} h`;
}

function shown(key, value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "number") {
    if (key.endsWith("bits_per_second")) return `${+(value / 1000).toPrecision(3)} kbit/s`;
    if (key.endsWith("_bytes")) return size(value);
    if (key.endsWith("_seconds")) return duration(value);
    if (key === "celsius") return `${value.toFixed(1)} °C`;
    return String(value);
  }
  if (Array.isArray(value)) return value.map((item) => shown(key, item)).join(", ") || "no";
  if (key === "bytes_of_kinds") key = "_bytes";
  if (typeof value === "object") {
    return Object.entries(value).map(([name, item]) => `${name} ${shown(key, item)}`).join(", ") || "–";
  }
  return String(value);
}

function fill(body, values) {
  const entries = Object.entries(values);
  while (body.rows.length > entries.length) body.deleteRow(-1);
  entries.forEach(([key, value], index) => {
    if (index === body.rows.length) body.append(document.getElementById("row").content.cloneNode(true));
    const [name, cell] = body.rows[index].cells;
    const text = shown(key, value);
    name.textContent = NAMES[key] ?? key.replaceAll("_", " ");
    if (cell.textContent !== text) cell.textContent = text;
    cell.classList.toggle("bad", key === "error" && Boolean(value));
  });
}

// What a person wants to know first, in words: [text, whether all is well; null: neither].
function stateOf(values) {
  const { camera, delivery } = values;
  if (values.error) return [`Something is wrong: ${values.error}`, false];
  if (values.running === false) {
    return values.live ? ["Stopped. The log says why.", false] : ["Finished: the source has come to its end.", null];
  }
  if (camera === "starting") return ["The camera is being opened…", null];
  if (camera?.startsWith("waiting")) return [`No pictures${reasonOf(camera)}. The camera is opened again and again.`, false];
  if (camera?.startsWith("failed")) return [`No pictures${reasonOf(camera)}. The program has to be started again.`, false];
  if (delivery && delivery !== "works") {
    const kept = values.queue_frames ? ` ${values.queue_frames} wait on disk.` : "";
    return [`Pictures come, but do not get through: ${delivery}.${kept}`, false];
  }
  if (values.age_seconds === null || values.age_seconds === undefined) return ["No picture yet.", null];
  if (values.ok === false) return [`No new picture for ${duration(values.age_seconds)}.`, false];
  return ["All is well: pictures come, and get through.", true];
}

const reasonOf = (state) => (state.includes(": ") ? `: ${state.slice(state.indexOf(": ") + 2)}` : "");

const countOf = (values) => Object.values(values ?? {}).reduce((sum, number) => sum + number, 0);

function figuresOf(values) {
  const figures = [
    ["Newest picture", typeof values.age_seconds === "number" ? (values.age_seconds < 2 ? "now" : `${duration(values.age_seconds)} ago`) : "–"],
    ["Sending", shown("bits_per_second", values.bits_per_second)],
    ["Sent", `${shown("sent", values.sent)} pictures, ${shown("sent_bytes", values.sent_bytes)}`],
  ];
  if (values.queue_frames) figures.push(["Waiting", `${values.queue_frames} pictures, ${size(values.queue_bytes)}`]);
  const lost = countOf(values.dropped) + (values.thinned ?? 0);
  if (lost) figures.push(["Not sent", `${lost} pictures`]);
  if (values.restarts) figures.push(["Camera opened again", values.restarts === 1 ? "once" : `${values.restarts} times`]);
  return figures;
}

function fillFigures(list, figures) {
  while (list.children.length > figures.length) list.lastElementChild.remove();
  figures.forEach(([name, text], index) => {
    if (index === list.children.length) list.append(document.getElementById("figure").content.cloneNode(true));
    const [term, value] = list.children[index].children;
    if (term.textContent !== name) term.textContent = name;
    if (value.textContent !== text) value.textContent = text;
  });
}

function showState(line, [text, well]) {
  // whoever listens is told of changes alone
  if (line.textContent !== text) line.textContent = text;
  line.className = well === null ? "state" : well ? "state good" : "state bad";
}

function showCamera(section, values) {
  showState(section.querySelector(".state"), stateOf(values));
  fillFigures(section.querySelector("dl"), figuresOf(values));
  fill(section.querySelector("tbody"), values);
}

// The device in a sentence.
function deviceText({ uptime_seconds: up, celsius, throttled, version }) {
  const degrees = Math.max(...Object.values(celsius ?? {}));
  const parts = [];
  if (typeof up === "number") parts.push(`Running for ${duration(up)}`);
  if (Number.isFinite(degrees)) parts.push(`${degrees.toFixed(0)} °C`);
  if (throttled?.length) parts.push(`the board says: ${throttled.join(", ").replaceAll("_", " ")}`);
  if (version) parts.push(`version ${version}`);
  return parts.length ? `${parts.join(", ")}.` : "";
}

function sectionOf(camera) {
  if (!sections.has(camera)) {
    const section = document.getElementById("camera").content.cloneNode(true).firstElementChild;
    section.querySelector("h2").textContent = camera;
    const picture = section.querySelector("img");
    picture.alt = `Newest picture of camera ${camera}`;
    picture.addEventListener("error", () => { picture.dataset.kind = ""; });
    document.getElementById("cameras").append(section);
    sections.set(camera, section);
  }
  return sections.get(camera);
}

function showPicture(picture, camera, streams) {
  const wanted = paused || document.hidden ? "none" : streams ? "stream" : "frame";
  const old = wanted === "stream" && Date.now() - Number(picture.dataset.opened) > STREAM_MS;
  if (picture.dataset.kind === wanted && wanted !== "frame" && !old) return;
  picture.dataset.kind = wanted;
  picture.dataset.opened = Date.now();
  const path = `cameras/${encodeURIComponent(camera)}`;
  if (wanted === "stream") picture.src = `${path}/stream?${round}`;
  // When paused, too: a single picture in place of the stream ends its connection.
  else if (wanted === "frame" || picture.src.includes("/stream")) picture.src = `${path}/frame.jpg?${round}`;
}

function showPictures() {
  for (const [camera, section] of sections) {
    showPicture(section.querySelector("img"), camera, sections.size <= MAX_STREAMS);
  }
}

function say(text, bad) {
  const line = document.getElementById("connection");
  if (line.textContent !== text) line.textContent = text;
  line.classList.toggle("bad", bad);
}

async function refresh() {
  round += 1;
  try {
    const answer = await fetch("status", { signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(`the device answered ${answer.status}`);
    const { cameras, ...device } = await answer.json();
    for (const [camera, section] of sections) {
      if (!connected) section.querySelector("img").dataset.kind = "";
      if (!(camera in cameras)) { section.remove(); sections.delete(camera); }
    }
    connected = true;
    for (const [camera, values] of Object.entries(cameras)) showCamera(sectionOf(camera), values);
    fill(document.getElementById("device"), device);
    document.getElementById("device-state").textContent = deviceText(device);
    showPictures();
    say("Connected", false);
  } catch (error) {
    connected = false;
    say(`No answer: ${error.message}`, true);
  }
  setTimeout(refresh, document.hidden ? 5 * REFRESH_MS : REFRESH_MS);
}

document.getElementById("pause").addEventListener("click", (event) => {
  paused = !paused;
  event.currentTarget.setAttribute("aria-pressed", String(paused));
  showPictures();
});
document.addEventListener("visibilitychange", showPictures);
refresh();
