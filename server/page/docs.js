// Puts this server's address and a camera's name into the examples.

const field = document.getElementById("name");
const texts = [];

for (const code of document.querySelectorAll(".guide code")) {
  if (code.childElementCount === 0) texts.push([code, code.textContent]);
}

function fill() {
  const name = field.value.trim() || "CAMERA";
  // a token is no address; only the host has a place for it
  const withToken = `${location.protocol}//viewer:TOKEN@${location.host}`;
  for (const [code, text] of texts) {
    code.textContent = text.replaceAll("ADDRESS_WITH_TOKEN", withToken).replaceAll("SERVER", location.origin)
      .replaceAll("CAMERA", name);
  }
}

field.value = new URLSearchParams(location.search).get("camera") ?? "CAMERA";
field.addEventListener("input", fill);
document.getElementById("which").addEventListener("submit", (event) => event.preventDefault());
fill();
