// A camera for other programs, by links for a limited time; and its removal.

import { get, request } from "./api.js";
import { element, say } from "./dom.js";
import { exactClock } from "./format.js";

// tokens: whether this server asks for them
export function makeElsewhere(name, { tokens, onRemoved }) {
  const base = `v1/cameras/${encodeURIComponent(name)}`;
  const ended = new AbortController(), options = { signal: ended.signal };
  const link = element("link"), remove = element("remove");
  element("link-made").hidden = true;
  element("removal").hidden = true;
  say(element("link-note"), "");
  say(element("remove-note"), "");
  element("docs").href = `docs?camera=${encodeURIComponent(name)}`;
  // a reader's cookie is not enough to remove anything
  remove.hidden = tokens;
  element("remove-how").hidden = !tokens;
  say(element("remove-command"), `${element("token-command").textContent.replace("tokens add", "remove-camera")
    .replace(" --reader", "")} ${name}`);

  async function make(of) {
    try {
      const { path, until } = await get(`${base}/link?of=${of}&seconds=${element("link-seconds").value}`, options);
      link.value = new URL(path.replace(/^\//, ""), document.baseURI).href;
      element("link-made").hidden = false;
      say(element("link-note"), until ? `Whoever has it sees this until ${exactClock(Date.parse(until)).slice(0, 16)}.` :
        "This server asks for no token, so the link holds for ever.");
      link.select();
    } catch (error) {
      if (!ended.signal.aborted) say(element("link-note"), `No link: ${error.message}`);
    }
  }

  async function copy() {
    try {
      await navigator.clipboard.writeText(link.value);
      say(element("link-note"), "Copied.");
    } catch {
      link.select();
      say(element("link-note"), "The browser does not allow it; copy the selected text.");
    }
  }

  async function removeCamera() {
    if (!confirm(`Remove camera ${name} and all of its frames? There is no way back.`)) return;
    try {
      await request(base, { method: "DELETE", timeout: 120000, ...options });
      onRemoved();
    } catch (error) {
      if (!ended.signal.aborted) say(element("remove-note"), `Not removed: ${error.message}`);
    }
  }

  const on = (id, act) => element(id).addEventListener("click", act, options);
  on("link-stream", () => make("stream"));
  on("link-snapshot", () => make("snapshot"));
  on("link-copy", copy);
  on("remove", removeCamera);
  return {
    // only a camera that is silent can be removed
    show(silent) { element("removal").hidden = !silent; },
    close() {
      ended.abort();
      link.value = "";
    },
  };
}
