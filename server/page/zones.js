// A camera's zones: shown over its picture, drawn by clicks or keys, saved at the server for the device to fetch.

import { get, request } from "./api.js";
import { element, make, say } from "./dom.js";
import { makeDrawing } from "./zonedrawing.js";

const MOST_ZONES = 64;
const KINDS = ["private", "ignored", "watched"];
const CORNERS = /^\d{1,4},\d{1,4}( \d{1,4},\d{1,4}){2,99}$/;

const nameOf = (zone) => zone.own ? `${zone.kind}, of the device's configuration` :
  zone.name ? `${zone.name}, ${zone.kind}` : zone.kind;

// Zones of the device's configuration, as it tells them. A device may say anything.
function readOwn(metrics) {
  const polygonOf = (text) => text.split(" ").map((corner) => corner.split(",").map((part) => Math.min(1, part / 1000)));
  return KINDS.flatMap((kind) => {
    const texts = metrics.own_zones?.[kind];
    return (Array.isArray(texts) ? texts : [])
      .filter((text) => typeof text === "string" && CORNERS.test(text)).slice(0, MOST_ZONES)
      .map((text) => ({ kind, own: true, name: `${kind}, device's own`, polygon: polygonOf(text) }));
  });
}

// tokens: whether this server asks for them
export function makeZones(camera, { tokens }) {
  const path = `v1/cameras/${encodeURIComponent(camera)}/zones`;
  const ended = new AbortController(), options = { signal: ended.signal };
  const toggle = element("zones-toggle"), panel = element("zones");
  const list = element("zone-list"), ownList = element("zone-own-list");
  const token = element("zone-token"), note = (text) => say(element("zone-note"), text);
  // as the server has them, as they are here, and what the camera says that it holds to
  let saved = null, zones = [], heard, own = [], leftOut = 0, ownKey = "";
  const drawing = makeDrawing({ kind, onDone: drawn, onChange: showDrawing, note, signal: ended.signal });

  toggle.setAttribute("aria-expanded", "false");
  panel.hidden = true;
  element("zone-access").hidden = !tokens;
  say(element("zone-command"), `${element("token-command").textContent.replace("--reader", "--manager")} --camera ${camera}`);
  forget();

  function kind() {
    return [...document.querySelectorAll("input[name=zone-kind]")].find((input) => input.checked).value;
  }

  function forget() {
    [saved, zones] = [null, []];
    token.value = "";
    note("");
    say(element("zone-state"), "");
    list.replaceChildren();
    drawing.cancel();
    drawing.show([], false);
  }

  const isChanged = () => saved !== null && JSON.stringify(zones) !== JSON.stringify(saved.zones);

  function show() {
    const isOpen = !panel.hidden;
    drawing.show(isOpen ? [...own, ...zones] : [], isOpen);
    ownList.replaceChildren(...own.map((zone) => {
      const item = make("li");
      item.append(make("span", "", `zone-swatch ${zone.kind}`), make("span", nameOf(zone), "zone-label"));
      return item;
    }));
    element("zone-own").hidden = own.length + leftOut === 0;
    say(element("zone-own-more"), leftOut === 0 ? "" :
      `${leftOut} more ${leftOut === 1 ? "is" : "are"} not shown: the device tells no more than fits beside a frame.`);
    list.replaceChildren(...zones.map((zone, index) => {
      const item = make("li"), remove = make("button", "Delete");
      remove.type = "button";
      remove.setAttribute("aria-label", `Delete zone ${index + 1}: ${nameOf(zone)}`);
      remove.addEventListener("click", () => deleteZone(index));
      item.append(make("span", "", `zone-swatch ${zone.kind}`), make("span", nameOf(zone), "zone-label"), remove);
      return item;
    }));
    element("zone-none").hidden = saved === null || zones.length > 0;
    for (const id of ["zone-save", "zone-discard"]) element(id).disabled = !isChanged();
    showDrawing();
    showState();
  }

  function showDrawing() {
    const corners = drawing.corners();
    element("zone-new").disabled = saved === null || corners !== null || zones.length >= MOST_ZONES;
    element("zone-drawing").hidden = corners === null;
    element("zone-close").disabled = corners === null || corners < 3;
    element("zone-undo").disabled = !corners;
  }

  function showState() {
    const known = saved !== null && saved.version > 0 && !isChanged();
    say(element("zone-state"), isChanged() ? "Not saved yet." : !known ? "" :
      heard === saved.version ? "The camera holds to these zones." :
        "The camera has not said yet that it holds to these zones.");
  }

  function take(answer) {
    saved = answer;
    zones = structuredClone(answer.zones);
    show();
  }

  async function load() {
    try {
      const found = await get(path, options);
      if (!panel.hidden && !ended.signal.aborted) take(found);
    } catch (error) {
      if (!ended.signal.aborted) note(`No zones: ${error.message}`);
    }
  }

  function open() {
    panel.hidden = !panel.hidden;
    toggle.setAttribute("aria-expanded", String(!panel.hidden));
    forget();
    show();
    if (!panel.hidden) load();
  }

  function draw() {
    drawing.begin();
    note("Set the corners: click or tap on the picture, or move the cross with the arrow keys and press Enter.");
  }

  function drawn(polygon) {
    const field = element("zone-name"), name = field.value.trim();
    zones = [...zones, { kind: kind(), polygon, ...(name ? { name } : {}) }];
    field.value = "";
    note(`Drawn: ${nameOf(zones.at(-1))}. Save the zones to give them to the camera.`);
    show();
    element("zone-save").focus({ preventScroll: true });
  }

  function cancel() {
    drawing.cancel();
    note("");
    showDrawing();
    element("zone-new").focus({ preventScroll: true });
  }

  function deleteZone(index) {
    note(`Deleted: ${nameOf(zones[index])}. Save the zones to take it from the camera.`);
    zones = zones.filter((_, each) => each !== index);
    show();
    // the focus stays near
    (list.querySelectorAll("button")[Math.min(index, zones.length - 1)] ?? element("zone-save")).focus();
  }

  async function save() {
    if (tokens && !token.value.trim()) {
      note("A manager's token is needed to save them.");
      token.focus();
      return;
    }
    const headers = { "Content-Type": "application/json", "If-Match": `"${saved.version}"` };
    // the page's cookie only reads
    if (tokens) headers.Authorization = `Bearer ${token.value.trim()}`;
    try {
      const answer = await request(path, { method: "PUT", headers, body: JSON.stringify({ zones }), ...options });
      note("Saved. The camera takes them when it sends its next frame.");
      take(await answer.json());
      element("zone-new").focus({ preventScroll: true });
    } catch (error) {
      if (ended.signal.aborted) return;
      if (error.status === 412) return refetch();
      note(`Not saved: ${error.message}`);
    }
  }

  // what was drawn here stays
  async function refetch() {
    note("Not saved: somebody else has set zones meanwhile. Save again to replace them, or discard these to see them.");
    try {
      saved = await get(path, options);
      showState();
    } catch (error) {
      if (!ended.signal.aborted) note(`Not saved: ${error.message}`);
    }
  }

  function discard() {
    note("");
    take(saved);
    element("zone-new").focus({ preventScroll: true });
  }

  const on = (id, act) => element(id).addEventListener("click", act, options);
  on("zones-toggle", open);
  on("zone-new", draw);
  on("zone-close", () => drawing.finish());
  on("zone-undo", () => drawing.undo());
  on("zone-cancel", cancel);
  on("zone-save", save);
  on("zone-discard", discard);
  element("zone-draw").addEventListener("keydown", (event) => { if (event.key === "Escape") cancel(); }, options);
  return {
    // metrics: what the camera says of itself: which zones it holds to, and which are its own
    hear(metrics) {
      heard = metrics.zones;
      const key = JSON.stringify([metrics.own_zones, metrics.own_zones_left_out]);
      if (key === ownKey) return showState();
      ownKey = key;
      own = readOwn(metrics);
      leftOut = Number.isInteger(metrics.own_zones_left_out) ? Math.max(0, metrics.own_zones_left_out) : 0;
      return show();
    },
    close() {
      ended.abort();
      panel.hidden = true;
      forget();
    },
  };
}
