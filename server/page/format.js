// Figures as people read them.

export const DASH = "–";

export function number(value, digits = 3) {
  if (typeof value !== "number" || !Number.isFinite(value)) return DASH;
  return value >= 1000 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(digits));
}

function scaled(value, units) {
  if (typeof value !== "number" || !Number.isFinite(value)) return DASH;
  let index = 0;
  while (value >= 999.5 && index < units.length - 1) { value /= 1000; index += 1; }
  return `${number(value)} ${units[index]}`;
}

export const size = (bytes) => scaled(bytes, ["B", "kB", "MB", "GB", "TB"]);
export const rate = (bits) => scaled(bits, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s"]);

export function duration(seconds) {
  if (typeof seconds !== "number" || !Number.isFinite(seconds)) return DASH;
  if (seconds < 1) return `${Math.round(1000 * seconds)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60), hours = Math.floor(minutes / 60), days = Math.floor(hours / 24);
  if (hours < 1) return `${minutes} min`;
  return days < 1 ? `${hours} h ${minutes % 60} min` : `${days} d ${hours % 24} h`;
}

// how long ago; below a second it is not worth a figure
export const age = (seconds) => (seconds < 1 ? "now" : seconds < 10 ? `${Math.floor(seconds)} s` : duration(seconds));

const pad = (value, length = 2) => String(value).padStart(length, "0");

function parts(date) {
  return {
    day: `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`,
    clock: `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}`,
  };
}

// both in the browser's time zone
export function clock(milliseconds) {
  const date = new Date(milliseconds);
  if (Number.isNaN(date.getTime())) return DASH;
  const { day, clock: text } = parts(date);
  return day === parts(new Date()).day ? text : `${day} ${text}`;
}

export const shortClock = (milliseconds) => {
  const text = exactClock(milliseconds), today = parts(new Date()).day;
  return text.startsWith(today) ? text.slice(today.length + 1) : text;
};

export function exactClock(milliseconds) {
  const date = new Date(milliseconds);
  if (Number.isNaN(date.getTime())) return DASH;
  const { day, clock: text } = parts(date);
  return `${day} ${text}.${pad(date.getMilliseconds(), 3)}`;
}

// any JSON value on one line
export function shown(key, value) {
  if (value === null || value === undefined || value === "") return DASH;
  if (typeof value === "number") {
    if (key.endsWith("bits_per_second")) return rate(value);
    if (key.endsWith("_bytes")) return size(value);
    if (key.endsWith("_seconds")) return duration(value);
    if (key === "celsius") return `${value.toFixed(1)} °C`;
    return number(value, 4);
  }
  if (Array.isArray(value)) return value.map((item) => shown(key, item)).join(", ") || "none";
  if (typeof value === "object") {
    return Object.entries(value).map(([name, item]) => `${name} ${shown(key, item)}`).join(", ") || DASH;
  }
  return String(value);
}
