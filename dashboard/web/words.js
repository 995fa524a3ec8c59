// Figures and states as people read them: the same words as at the terminal.

const digits = (value) => {
  const decimals = value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  const text = value.toFixed(decimals);
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
};

const scaled = (value, step, units) => {
  let at = 0;
  while (value >= step - 0.5 && at < units.length - 1) {
    value /= step;
    at += 1;
  }
  return units[at] ? `${digits(value)} ${units[at]}` : digits(value);
};

export const count = (value) => (value < 10000 ? String(value) : scaled(value, 1000, ["", "k", "M", "G", "T"]));
export const bytes = (value) => scaled(value, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]);
export const number = (value) => String(Math.round(value * 100) / 100);
export const percent = (share) => (share > 0 && share < 0.005 ? "<1 %" : `${Math.round(share * 100)} %`);
export const plural = (value, of) => `${count(value)} ${of}${value === 1 ? "" : "s"}`;
export const part = (value, whole) => (whole > 0 ? value / whole : 0);

// A time that goes on, of nanoseconds: 0:42, 2:11:05.
export const clock = (ns) => {
  const seconds = Math.floor(ns / 1e9);
  const two = (value) => String(value).padStart(2, "0");
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  return hours > 0 ? `${hours}:${two(minutes)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`;
};

// A time that was measured, of nanoseconds: 35 ms, 2.1 s, 12:07.
export const time = (ns) => {
  if (ns < 999500) return `${digits(ns / 1e3)} us`;
  if (ns < 999500000) return `${digits(ns / 1e6)} ms`;
  return ns < 99500000000 ? `${digits(ns / 1e9)} s` : clock(ns);
};

export const short = (id) => id.slice(-8);
export const called = (query) => (query.name ? `${short(query.id)} ${query.name}` : short(query.id));

// A state by a sign and a word, and its colour.
const STATES = {
  running: ["▶ running", ""],
  done: ["✓ done", "good"],
  failed: ["✗ failed", "bad"],
  cancelled: ["■ cancelled", "quiet"],
  waiting: ["… waiting", "quiet"],
  lost: ["✗ lost", "bad"],
  stopped: ["■ stopped", "quiet"],
};
export const state = (word) => (STATES[word] ?? [word, ""])[0];
export const colour = (word) => (STATES[word] ?? [word, ""])[1];

// The time of the day of milliseconds since 1970, by the viewer's clock.
export const day = (ms) => {
  const at = new Date(ms);
  const of = (value, digits) => String(value).padStart(digits, "0");
  return `${of(at.getHours(), 2)}:${of(at.getMinutes(), 2)}:${of(at.getSeconds(), 2)}.${of(at.getMilliseconds(), 3)}`;
};
