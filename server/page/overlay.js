// A quality map, the bits of every region, or the camera's importance, laid over the picture.

import { element, say } from "./dom.js";
import { number } from "./format.js";

const REGION = 16;
// viridis: even steps for the eye, also without color; page.css has the same for the legend
const RAMP = [[68, 1, 84], [72, 40, 120], [62, 73, 137], [49, 104, 142], [38, 130, 142], [31, 158, 137],
  [53, 183, 121], [109, 205, 89], [180, 222, 44], [253, 231, 37]];
// what a follower takes from its base; the ramp has no gray
const KEPT = [110, 110, 110];
const NOTHING = { quality: "This frame is an ordinary JPEG: it has no quality map.",
  bits: "This file's bits can't be told apart by region.",
  importance: "This camera has no importance map." };
// RJIM, format version, the map's version, rows, columns
const IMPORTANCE_HEADER = 13;
const IMPORTANCE_FORMAT = 1;

// The file of a camera's importance, as rows of octaves over the frame's mean. Throws where it is none.
export function readImportance(buffer) {
  const view = new DataView(buffer);
  const text = view.byteLength > IMPORTANCE_HEADER ? String.fromCharCode(...new Uint8Array(buffer, 0, 4)) : "";
  if (text !== "RJIM" || view.getUint8(4) !== IMPORTANCE_FORMAT) throw new Error("the importance map can't be read");
  const version = view.getUint32(5), rows = view.getUint16(9), cols = view.getUint16(11);
  if (!rows || !cols || view.byteLength !== IMPORTANCE_HEADER + rows * cols + 4) {
    throw new Error("the importance map is damaged");
  }
  const steps = new Uint8Array(buffer, IMPORTANCE_HEADER, rows * cols);
  const importance = Array.from({ length: rows }, (_, row) =>
    Array.from(steps.subarray(row * cols, (row + 1) * cols), (step) => (step - 128) / 4));
  return { version, rows, cols, importance };
}

function color(share) {
  const place = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1);
  const index = Math.min(Math.floor(place), RAMP.length - 2);
  return RAMP[index].map((low, channel) => low + (place - index) * (RAMP[index + 1][channel] - low));
}

export function makeOverlay() {
  const canvas = element("overlay"), mark = element("cursor"), legend = element("legend");
  let map = null, kind = "none", frame = null, cursor = null;

  function values() {
    if (kind === "quality") return map.quality?.map((row) => row.map(([luma]) => luma)) ?? null;
    return (kind === "importance" ? map.importance : map.bits) ?? null;
  }

  function hide() {
    canvas.hidden = mark.hidden = true;
    cursor = null;
  }

  // how large a region is in the picture's box, in percent: the last row and column may reach beyond the picture
  const share = () => kind === "importance" ? [100 / map.cols, 100 / map.rows] :
    [100 * REGION / frame.coding_width, 100 * REGION / frame.coding_height];

  const isKept = (row, col) => kind !== "importance" && Boolean(map.kept?.[row]?.[col]);

  function title(flat) {
    if (kind === "quality") return "IJG quality factor of luma as shown, region by region";
    if (kind === "importance") return `The camera's importance map, version ${map.version}: octaves over the frame's mean`;
    return `Bits per region, logarithmic scale; ${number(flat.reduce((sum, value) => sum + value, 0) / 8)} ` +
      `of the file's ${number(frame.bytes)} bytes`;
  }

  function describe() {
    if (cursor === null || map === null) { mark.hidden = true; say(element("region"), ""); return; }
    const { row, col } = cursor;
    const quality = map.quality?.[row]?.[col], bits = map.bits?.[row]?.[col], octaves = map.importance?.[row]?.[col];
    const told = [];
    if (octaves !== undefined) told.push(`${number(octaves)} octaves`);
    if (isKept(row, col)) told.push("kept, not sent");
    if (quality) told.push(`quality ${number(quality[0])} luma, ${number(quality[1])} chroma`);
    if (bits !== undefined) told.push(`${number(bits)} bits`);
    say(element("region"), `Region in row ${row + 1}, column ${col + 1}: ${told.join("; ")}`);
    const [width, height] = share();
    Object.assign(mark.style, {
      left: `${col * width}%`, top: `${row * height}%`, width: `${width}%`, height: `${height}%`,
    });
    mark.hidden = false;
  }

  function draw(newKind, newFrame, newMap) {
    [kind, frame, map] = [newKind, newFrame, newMap];
    legend.hidden = kind === "none";
    element("legend-kept").hidden = true;
    const shown = kind === "none" || map === null ? null : values();
    legend.querySelector(".scale").hidden = shown === null;
    if (shown === null) {
      hide();
      if (kind !== "none") say(element("legend-title"), NOTHING[kind]);
      say(element("region"), "");
      return;
    }
    const flat = shown.flat(), kept = flat.map((_, index) => isKept(Math.floor(index / map.cols), index % map.cols));
    const sent = flat.filter((_, index) => !kept[index]);
    const [low, high] = (sent.length ? sent : flat).reduce(
      ([least, most], value) => [Math.min(least, value), Math.max(most, value)], [Infinity, -Infinity]);
    // few regions take most of the bits: on a logarithmic scale the others show, too
    const scale = kind === "bits" ? Math.log1p : (value) => value;
    const range = Math.max(scale(high) - scale(low), 1e-9);
    canvas.width = map.cols;
    canvas.height = map.rows;
    const image = new ImageData(map.cols, map.rows);
    flat.forEach((value, index) => {
      image.data.set([...(kept[index] ? KEPT : color((scale(value) - scale(low)) / range)), 255], 4 * index);
    });
    canvas.getContext("2d").putImageData(image, 0, 0);
    const [width, height] = share();
    canvas.style.width = `${map.cols * width}%`;
    canvas.style.height = `${map.rows * height}%`;
    canvas.hidden = false;
    say(element("legend-title"), title(flat));
    const count = flat.length - sent.length;
    element("legend-kept").hidden = !count;
    say(element("legend-kept-text"), `${number(count)} of ${number(flat.length)} regions are kept: the picture has them from an earlier file`);
    say(element("legend-low"), number(low));
    say(element("legend-high"), number(high));
    if (cursor && (cursor.row >= map.rows || cursor.col >= map.cols)) cursor = null;
    describe();
  }

  // by the keyboard; true where there was something to move over
  function move(rows, cols) {
    if (canvas.hidden) return false;
    const from = cursor ?? { row: Math.floor(map.rows / 2), col: Math.floor(map.cols / 2) };
    cursor = {
      row: Math.min(Math.max(from.row + (cursor ? rows : 0), 0), map.rows - 1),
      col: Math.min(Math.max(from.col + (cursor ? cols : 0), 0), map.cols - 1),
    };
    describe();
    return true;
  }

  // x, y: shares of the picture's sides
  function point(x, y) {
    if (canvas.hidden) return;
    const [width, height] = share();
    const row = Math.floor(100 * y / height), col = Math.floor(100 * x / width);
    if (row === cursor?.row && col === cursor?.col) return;
    cursor = row >= 0 && col >= 0 && row < map.rows && col < map.cols ? { row, col } : null;
    describe();
  }

  return { draw, move, point };
}
