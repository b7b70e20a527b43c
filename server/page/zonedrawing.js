// Polygons over the picture, and the drawing of a new one: corners by clicks, or by a cross that keys move.

import { element, make, say } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const MOST_CORNERS = 100;
// of the picture's sides: a step of the cross, one with Shift, and how near the first corner closes the polygon
const STEP = 0.01, LONG_STEP = 0.1, NEAR = 0.02;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const percent = (share) => `${Math.round(100 * share)} %`;
const within = (share) => Math.min(1, Math.max(0, Math.round(share * 1e5) / 1e5));
const pathOf = (corners) => corners.map(([x, y], index) => `${index ? "L" : "M"}${x} ${y}`).join("");

function shape(className, d) {
  const made = document.createElementNS(SVG, "path");
  made.setAttribute("class", className);
  made.setAttribute("d", d);
  return made;
}

// kind: gives that of the new zone. onDone gets its polygon, onChange is called when corners came or went.
export function makeDrawing({ kind, onDone, onChange, note, signal }) {
  const surface = element("zone-draw"), cross = element("zone-cross");
  const shapes = element("zone-shapes"), names = element("zone-names");
  let zones = [], corners = null, at = [0.5, 0.5];

  function draw() {
    const made = zones.map((zone) => shape(zone.kind, `${pathOf(zone.polygon)}Z`));
    if (corners !== null) {
      made.push(shape(`new ${kind()}`, pathOf(corners)));
      for (const [x, y] of corners) made.push(shape("corner", `M${x} ${y}h0`));
    }
    shapes.replaceChildren(...made);
    names.replaceChildren(...zones.map(({ kind: what, name, polygon }) => {
      const label = make("span", name || what);
      // at the corner that is topmost, and still within the picture
      const [x, y] = polygon.reduce((best, corner) => corner[1] < best[1] ? corner : best);
      label.style.left = `min(${100 * x}%, 100% - 5rem)`;
      label.style.top = `min(${100 * y}%, 100% - 1.4rem)`;
      return label;
    }));
    cross.style.left = `${100 * at[0]}%`;
    cross.style.top = `${100 * at[1]}%`;
  }

  function add([x, y]) {
    const first = corners[0];
    if (corners.length >= 3 && Math.hypot(x - first[0], y - first[1]) < NEAR) { finish(); return; }
    if (corners.length >= MOST_CORNERS) { note(`A zone has ${MOST_CORNERS} corners at most.`); return; }
    corners.push([within(x), within(y)]);
    note(`Corner ${corners.length} at ${percent(x)} from the left, ${percent(y)} from the top.`);
    draw();
    onChange();
  }

  function undo() {
    if (!corners?.length) return;
    corners.pop();
    note(`${corners.length} corners are left.`);
    draw();
    onChange();
  }

  function end() {
    corners = null;
    surface.hidden = true;
    draw();
  }

  function finish() {
    if (corners === null || corners.length < 3) return;
    const polygon = corners;
    end();
    onDone(polygon);
  }

  function keyed(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || event.key === "Tab") return;
    // the picture below would go to another frame
    event.stopPropagation();
    if (Object.hasOwn(ARROWS, event.key)) {
      const step = event.shiftKey ? LONG_STEP : STEP;
      at = at.map((share, axis) => within(share + step * ARROWS[event.key][axis]));
      draw();
      say(element("zone-place"), `${percent(at[0])} from the left, ${percent(at[1])} from the top`);
    } else if (event.key === "Enter" || event.key === " ") {
      add(at);
    } else if (event.key === "Backspace" || event.key === "Delete") {
      undo();
    } else {
      return;
    }
    event.preventDefault();
  }

  surface.addEventListener("keydown", keyed, { signal });
  surface.addEventListener("click", (event) => {
    const { left, top, width, height } = surface.getBoundingClientRect();
    at = [within((event.clientX - left) / width), within((event.clientY - top) / height)];
    add(at);
  }, { signal });
  for (const input of document.querySelectorAll("input[name=zone-kind]")) input.addEventListener("change", draw, { signal });

  return {
    // number of corners, null while nothing is drawn
    corners: () => corners?.length ?? null,
    begin() {
      [corners, at] = [[], [0.5, 0.5]];
      surface.hidden = false;
      draw();
      onChange();
      surface.focus();
    },
    finish,
    undo,
    cancel: end,
    show(all, visible) {
      zones = all;
      shapes.toggleAttribute("hidden", !visible);
      names.hidden = !visible;
      draw();
    },
  };
}
