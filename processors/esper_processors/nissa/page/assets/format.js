// Numbers, times and names as people read them.

export const NONE = "–";

/** A figure with about four digits that count. */
export function number(value, digits = 4) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(2);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return size >= 1e4 ? Math.round(value).toLocaleString("en")
    : String(Number(value.toPrecision(digits)));
}

/** A figure of figures that stand under each other: always the same decimals. */
export function fixed(value, decimals = 4) {
  return Number.isFinite(value) && value !== null ? value.toFixed(decimals) : NONE;
}

/** A difference with its sign. */
export function signed(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  if (value === 0) return "0";
  return `${value > 0 ? "+" : "−"}${number(Math.abs(value), 3)}`;
}

/** A count, short: 12.3k, 4.56M. */
export function short(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (Math.abs(value) >= size) {
      return `${Number((value / (unit === "k" ? 1e3 : size)).toPrecision(3))}${unit}`;
    }
  }
  return value.toLocaleString("en");
}

/** Seconds as 3.2 s, 4 min 10 s, 2 h 5 min. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return NONE;
  if (seconds < 60) return `${Number(seconds.toFixed(1))} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

/** Seconds for a column: 12.3 s, 3.5 min, 2.1 h. */
export function shortDuration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return NONE;
  if (seconds < 60) return `${Number(seconds.toFixed(1))} s`;
  return seconds < 3600 ? `${(seconds / 60).toFixed(1)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

/** A moment, as the reader's clock has it. */
export function moment(text) {
  const at = new Date(text);
  return text && !Number.isNaN(at.getTime()) ? at.toLocaleString("sv") : NONE;
}

/** How long ago a moment was. */
export function ago(text) {
  const seconds = (Date.now() - new Date(text).getTime()) / 1000;
  if (!text || Number.isNaN(seconds)) return NONE;
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return seconds < 30 * 86400 ? `${Math.floor(seconds / 86400)} d ago` : moment(text).slice(0, 10);
}

/** Any value of a setting or of evidence in one line. */
export function plain(value) {
  if (value === null || value === undefined) return NONE;
  if (typeof value === "number") return number(value);
  if (Array.isArray(value)) return value.map(plain).join(", ");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** `one kernel`, `2 kernels`. */
export function count(many, noun) {
  return `${number(many)} ${noun}${many === 1 ? "" : "s"}`;
}

/** The beginning of an id. */
export function shortId(id) {
  return id && id.length > 12 ? id.slice(0, 12) : id || NONE;
}

/** A word of a command line, so that a shell takes it as one word whatever is in it. */
export function word(text) {
  // line ends would run what stands before them as soon as they are pasted
  const line = String(text).replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g, "");
  return /^[A-Za-z0-9_.:@%+=,/-]+$/.test(line) ? line : `'${line.replaceAll("'", "'\\''")}'`;
}

/** What a run is called: its name, else its id. */
export function runName(run) {
  return run.name || run.run_id;
}

/** The address of a run's view. */
export function runLink(id) {
  return `#/run/${encodeURIComponent(id)}`;
}

/** The address of a comparison. */
export function compareLink(ids) {
  return `#/compare/${ids.map(encodeURIComponent).join(",")}`;
}
