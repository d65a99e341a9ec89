// Numbers and times for people. Times that come in are unix seconds.

const NUMBERS = new Intl.NumberFormat("en");
const UNITS = ["bytes", "KiB", "MiB", "GiB", "TiB"];

export const count = (number) => NUMBERS.format(number);

export const counted = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

export function bytes(number) {
  let unit = 0;
  while (number >= 1024 && unit < UNITS.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return `${unit && number < 100 ? number.toFixed(1) : Math.round(number)} ${UNITS[unit]}`;
}

export function duration(seconds) {
  seconds = Math.max(0, Math.round(seconds));
  if (seconds < 120) return `${seconds}\u00a0s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)}\u00a0min`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)}\u00a0h`;
  return `${Math.floor(seconds / 86_400)}\u00a0days`;
}

const two = (number) => String(number).padStart(2, "0");

/** The time of day here, with the date where that is not today. */
export function clock(unix) {
  const at = new Date(unix * 1000);
  const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  if (at.toDateString() === new Date().toDateString()) return time;
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${time}`;
}

/** `12:03`; at midnight the day. */
export function timeOfDay(unix) {
  const at = new Date(unix * 1000);
  if (!at.getHours() && !at.getMinutes() && !at.getSeconds()) return `${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  return `${two(at.getHours())}:${two(at.getMinutes())}${at.getSeconds() ? `:${two(at.getSeconds())}` : ""}`;
}

/** `12:03:04 (5 min ago)`; nothing where there is no time. */
export function ago(unix) {
  if (!unix) return undefined;
  const seconds = Date.now() / 1000 - unix;
  return seconds < 0 ? `${clock(unix)} (in\u00a0${duration(-seconds)})` : `${clock(unix)} (${duration(seconds)}\u00a0ago)`;
}
