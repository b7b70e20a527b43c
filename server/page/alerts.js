// Alerts, when rules over the task's answers held: marks on the timeline, and buttons that go there.

import { element, make } from "./dom.js";
import { clock, duration } from "./format.js";

const MOST_BUTTONS = 12;

export function showAlerts(alerts, since, until, onPick) {
  const place = (time) => 100 * Math.min(1, Math.max(0, (time - since) / (until - since)));
  const timed = alerts.map((alert) => ({
    ...alert, begin: Date.parse(alert.since), end: alert.until === null ? until : Date.parse(alert.until),
  }));
  element("marks").replaceChildren(...timed.map(({ begin, end }) => {
    const mark = make("div");
    mark.style.left = `${place(begin)}%`;
    mark.style.width = `${place(end) - place(begin)}%`;
    return mark;
  }));
  const list = element("alerts");
  list.hidden = alerts.length === 0;
  const text = ({ rule, until: ended, begin, end }) => `${rule}, ${clock(begin)}, ` +
    (ended === null ? "goes on" : `for ${duration((end - begin) / 1000)}`);
  const shown = timed.slice(0, MOST_BUTTONS);
  // what is the same stays, so that a button keeps the focus
  const key = shown.map((alert) => `${alert.id} ${text(alert)}`).join("\n");
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(...shown.map((alert) => {
    const item = make("li"), button = make("button", text(alert));
    button.type = "button";
    button.title = `${alert.class}, score ${alert.score}`;
    button.addEventListener("click", () => onPick(alert.begin));
    item.append(button);
    return item;
  }));
}
