// Which view is shown, and who is logged in.

import { connectionState, request, whenRefused } from "./api.js";
import * as camera from "./camera.js";
import { element, say } from "./dom.js";
import * as overview from "./overview.js";

// the cookie itself is out of a script's reach
const LOGGED_IN = "rjpeg-logged-in";

let close = () => {};

function remembered(value) {
  try {
    if (value === undefined) return localStorage.getItem(LOGGED_IN) === "yes";
    if (value) localStorage.setItem(LOGGED_IN, "yes");
    else localStorage.removeItem(LOGGED_IN);
  } catch { /* storage is off: then there is no button to log out with */ }
  return Boolean(value);
}

function only(shown) {
  for (const id of ["log-in", "overview", "camera"]) element(id).hidden = id !== shown;
}

function route({ focus = false } = {}) {
  close();
  close = () => {};
  const query = new URLSearchParams(location.search);
  const name = query.get("camera");
  element("log-out").hidden = !remembered();
  if (name === null) {
    only("overview");
    document.title = "Cameras – Region JPEG";
    close = overview.open({ tokens: remembered() });
  } else {
    only("camera");
    document.title = `${name} – Region JPEG`;
    const frame = Number(query.get("frame"));
    close = camera.open(name, Number.isInteger(frame) && frame > 0 ? frame : null, {
      tokens: remembered(), onRemoved: () => go(location.pathname),
    });
  }
  // a reader of the screen starts at the top of what is new
  if (focus) element("main").focus();
}

function go(address) {
  history.pushState(null, "", address);
  scrollTo(0, 0);
  route({ focus: true });
}

function logIn() {
  if (!element("log-in").hidden) return;
  close();
  close = () => {};
  remembered(false);
  element("log-out").hidden = true;
  only("log-in");
  document.title = "Log in – Region JPEG";
  say(element("token-error"), "");
  connectionState("waiting", "Not logged in");
  element("token").focus();
}

element("log-in").querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = element("token");
  const token = field.value.trim();
  say(element("token-error"), "");
  try {
    await request("v1/session", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ token }),
    });
  } catch (error) {
    field.setAttribute("aria-invalid", "true");
    say(element("token-error"), error.status === 401 ? "This is not a reader's token, or it was revoked." :
      `That did not work: ${error.message}.`);
    field.select();
    return;
  }
  field.value = "";
  field.removeAttribute("aria-invalid");
  remembered(true);
  element("log-in").hidden = true;
  route({ focus: true });
});

element("log-out").addEventListener("click", async () => {
  try {
    await request("v1/session", { method: "DELETE" });
  } catch (error) {
    connectionState("gone", `Not logged out: ${error.message}`);
    return;
  }
  logIn();
});

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='?']");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  go(link.getAttribute("href") === "?" ? location.pathname : link.getAttribute("href"));
});
addEventListener("popstate", () => route());
whenRefused(logIn);
route();
