// What a camera's files take, beside plain JPEG files of the same quality.

import { get } from "./api.js";
import { element, say } from "./dom.js";
import { number, size } from "./format.js";

// while the first frames are coded again
const COMPARING_MS = 1500;

export function makeBandwidth(base) {
  const ended = new AbortController();
  let timer = 0;
  element("bandwidth-bars").hidden = true;
  for (const id of ["saving", "bandwidth-source"]) say(element(id), "");

  function saving(bpp, plain, bitrate) {
    const saved = Math.round(100 * (1 - bpp / plain)), aDay = bitrate * 86400 / 8;
    if (saved > 0) {
      const days = aDay ? `: ${size(aDay)} a day instead of ${size(aDay * plain / bpp)}` : "";
      return `${saved} % fewer bits than plain JPEG files of the same quality${days}.`;
    }
    return saved < 0 ? `Plain JPEG files would take ${Math.round(100 * (1 - plain / bpp))} % fewer bits here.` :
      "Plain JPEG files would take as many bits here.";
  }

  function source({ frames, bytes, follower_bytes: theirs, sample }) {
    const keys = theirs ? `, ${Math.round(100 * (1 - theirs / bytes))} % of the bytes in keys` : "";
    return `Region JPEG: all ${number(frames)} files of the hour up to the last frame${keys}. Plain JPEG: ` +
      `${number(sample)} of the frames as they were decoded, coded again here: 4:2:0, tables of its own, as near ` +
      "to the picture. Changes that the camera left out on purpose do not count.";
  }

  // record: the camera's, for its bit rate
  async function refresh(record) {
    clearTimeout(timer);
    const told = await get(`${base}/bandwidth`, { signal: ended.signal });
    const { bpp, plain_jpeg_bpp: plain } = told;
    const known = typeof bpp === "number" && bpp > 0 && typeof plain === "number" && plain > 0;
    element("bandwidth-bars").hidden = !known;
    say(element("bandwidth-source"), known ? source(told) : "");
    if (!known) {
      say(element("saving"), bpp ? "Coding some of this camera's frames as plain JPEG, to compare…" :
        "There is no frame yet to compare.");
      if (bpp && !ended.signal.aborted) timer = setTimeout(() => refresh(record).catch(() => {}), COMPARING_MS);
      return;
    }
    for (const [id, value] of [["ours", bpp], ["plain", plain]]) {
      say(element(id), `${number(value)} bpp`);
      element(`${id}-bar`).style.width = `${100 * value / Math.max(bpp, plain)}%`;
    }
    say(element("saving"), saving(bpp, plain, record?.bitrate ?? 0));
  }

  function close() {
    ended.abort();
    clearTimeout(timer);
  }

  return { refresh, close };
}
