// Values as people read them; the same forms as on the command line.

/** Return a number with a few decimals, or few significant digits where it is extreme. */
export function number(value, digits = Math.abs(value) >= 100 ? 2 : Math.abs(value) >= 10 ? 3 : 4) {
  if (value === null || value === undefined || value === "") return "";
  if (typeof value !== "number") return String(value);
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (value && (size < 1e-2 || size >= 1e7)) return value.toExponential(2);
  return formatOf(Number.isInteger(value) ? 0 : digits).format(value);
}

const formats = new Map();

/** Making a format takes far longer than using it. */
function formatOf(digits) {
  if (!formats.has(digits))
    formats.set(digits, new Intl.NumberFormat("en-US", {minimumFractionDigits: digits, maximumFractionDigits: digits}));
  return formats.get(digits);
}

/** Return a number for an axis: 12k, 3.4M, 1e-4. */
export function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e13) return value.toExponential().replace(/\.?0+e/, "e").replace("e+", "e");
  for (const [unit, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (size >= unit) return `${trimmed(value / unit)}${letter}`;
  return trimmed(value);
}

/** Return a length of time in its two largest units. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const whole = Math.round(Math.max(0, seconds));
  const two = amount => String(amount).padStart(2, "0");
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m ${two(whole % 60)}s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)}h ${two(Math.floor(whole % 3600 / 60))}m`;
  return `${Math.floor(whole / 86400)}d ${two(Math.floor(whole % 86400 / 3600))}h`;
}

/** Return local date and time; `moment` in seconds since the epoch or as ISO 8601. */
export function date(moment) {
  if (!moment) return "";
  const when = new Date(typeof moment === "number" ? moment * 1000 : moment);
  if (Number.isNaN(when.getTime())) return String(moment);
  const two = amount => String(amount).padStart(2, "0");
  return `${when.getFullYear()}-${two(when.getMonth() + 1)}-${two(when.getDate())} `
    + `${two(when.getHours())}:${two(when.getMinutes())}`;
}

/** Return how long ago a moment was, or its date when that is more than a week. */
export function age(moment, now = Date.now() / 1000) {
  if (!moment) return "";
  const seconds = now - moment;
  if (seconds < 0 || seconds >= 7 * 86400) return date(moment).slice(0, 10);
  if (seconds < 60) return `${Math.floor(seconds)}s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)}h ago`;
  return `${Math.floor(seconds / 86400)}d ago`;
}

/** Return a number of bytes with its unit. */
export function bytes(count) {
  if (!count) return "";
  for (const [unit, name] of [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]])
    if (count >= unit) return `${(count / unit).toFixed(1)} ${name}`;
  return `${count} B`;
}

/** Return a value of a recipe or a record on one line. */
export function plain(value) {
  if (value === null || value === undefined) return "";
  if (Array.isArray(value)) return value.map(plain).join(", ");
  if (typeof value === "object")
    return Object.entries(value).map(([key, item]) => `${key} ${plain(item)}`).join(", ");
  return String(value);
}

function trimmed(value) {
  return String(Number(value.toPrecision(4)));
}
