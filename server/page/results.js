// What the task says, any JSON: classes with scores as bars, boxes over the picture, all else as it is.

import { make } from "./dom.js";
import { number, shown } from "./format.js";

const MOST_ROWS = 20;

const isScored = (item) => item !== null && typeof item === "object" && typeof item.score === "number";
const isBox = (box) => Array.isArray(box) && box.length === 4 && box.every(Number.isFinite);

const nameOf = (item) => shown("label", item.label ?? (item.index === undefined ? "?" : `class ${item.index}`));

export function showResults(target, results) {
  if (results === null || results === undefined) {
    target.replaceChildren(make("p", "The server runs no task. Its --task names one.", "soft"));
  } else if (Array.isArray(results) && results.length === 0) {
    target.replaceChildren(make("p", "Nothing found.", "soft"));
  } else if (Array.isArray(results) && results.every(isScored)) {
    target.replaceChildren(scores(results));
  } else if (typeof results === "object" && typeof results.error === "string") {
    target.replaceChildren(make("p", `The task failed: ${results.error}`, "bad"));
  } else {
    const text = make("pre", JSON.stringify(results, null, 2));
    text.tabIndex = 0;
    text.setAttribute("role", "region");
    text.setAttribute("aria-label", "Results as JSON");
    target.replaceChildren(text);
  }
}

function scores(results) {
  // a network's scores need not be shares of one
  const most = Math.max(1, ...results.map((item) => item.score));
  const list = make("ol", "", "scores");
  for (const item of results.slice(0, MOST_ROWS)) {
    const row = make("li"), line = make("p", "", "bar-name"), bar = make("div", "", "bar"), filled = make("div");
    line.append(make("span", nameOf(item)), make("b", number(item.score)));
    filled.style.width = `${100 * Math.max(0, item.score) / most}%`;
    bar.append(filled);
    row.append(line, bar);
    list.append(row);
  }
  if (results.length > MOST_ROWS) list.append(make("li", `and ${results.length - MOST_ROWS} more`, "soft"));
  return list;
}

export function showBoxes(target, results, frame) {
  const boxes = Array.isArray(results) ? results.filter((item) => isScored(item) && isBox(item.box)) : [];
  target.replaceChildren(...boxes.map((item) => {
    const [left, top, right, bottom] = item.box;
    const box = make("div");
    box.append(make("span", `${nameOf(item)} ${number(item.score, 2)}`));
    Object.assign(box.style, {
      left: `${100 * left / frame.width}%`, top: `${100 * top / frame.height}%`,
      width: `${100 * (right - left) / frame.width}%`, height: `${100 * (bottom - top) / frame.height}%`,
    });
    return box;
  }));
}
