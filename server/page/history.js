// The frames of a camera in the order in which they were captured, fetched piece by piece.

import { get } from "./api.js";

const OLDER = 50, NEWER = 200;
const LONGEST_MS = 1e13;

export function makeHistory(camera) {
  const path = `v1/cameras/${encodeURIComponent(camera)}/frames`;
  // neighbors, oldest first
  let known = [];

  async function list(query) {
    return get(`${path}?${new URLSearchParams(query)}`);
  }

  // The next frames that were captured after a time (text), or then with a larger id. The server lists newest first,
  // so it is asked for pieces of time that are short enough to be listed whole.
  async function following(time, id) {
    const last = Date.parse((await get(`v1/cameras/${encodeURIComponent(camera)}`)).last_capture_time);
    let begin = time, length = 10000;
    while (length < LONGEST_MS) {
      const start = Date.parse(begin), end = start + length;
      const { frames, next } = await list({ since: begin, until: new Date(end).toISOString(), limit: NEWER });
      const found = frames.filter((frame) => frame.capture_time !== time || frame.id > id).reverse();
      if (next !== null && length > 20) { length = Math.floor(length / 4); continue; }
      if (found.length) return found;
      if (end > last) return [];
      begin = new Date(end).toISOString();
      length *= 4;
    }
    return [];
  }

  // The frame that is so many steps from another: the oldest where there are not so many, null where all that is
  // known of newer ones has been passed.
  async function step(from, steps) {
    let at = known.findIndex((frame) => frame.id === from.id);
    if (at < 0) { known = [from]; at = 0; }
    if (at + steps < 0) {
      const { frames } = await list({ before: known[0].id, limit: OLDER });
      known.unshift(...frames.reverse());
      at += frames.length;
    } else if (at + steps >= known.length) {
      const newest = known.at(-1);
      known.push(...await following(newest.capture_time, newest.id));
    }
    const to = Math.max(0, at + steps);
    return to < known.length ? known[to] : null;
  }

  // the frame that was captured last before a time (in ms), or else the first after it; null: there is none
  async function near(milliseconds) {
    const time = new Date(milliseconds).toISOString();
    const [before] = (await list({ until: time, limit: 1 })).frames;
    known = before ? [before] : await following(time, 0);
    return known[0] ?? null;
  }

  return { step, near };
}
