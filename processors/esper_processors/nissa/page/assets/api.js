// Requests to Nissa: the session's key, errors in the words of the server.

const KEY = "esper.key";
const API = "/api/v1";

/** What the server refused, or that it was not reached (`status` 0). */
export class ApiError extends Error {
  constructor(status, title, detail, trace) {
    super(detail || title);
    this.status = status;
    this.title = title;
    this.trace = trace;
  }
}

/** The session's key, empty without one. */
function sessionKey() {
  return localStorage.getItem(KEY) || "";
}

/** Headers of every request. */
export function headers(more) {
  const key = sessionKey();
  return { ...(key ? { "X-Esper-Key": key } : {}), ...more };
}

/** The error that an answer stands for. */
export async function errorOf(answer) {
  let told = {};
  try {
    told = await answer.json();
  } catch {
    // a proxy's answer, not Nissa's
  }
  return new ApiError(
    answer.status,
    told.title || `Nissa answered ${answer.status}.`,
    told.detail,
    told.trace_id,
  );
}

/** Sends a request; throws `ApiError`. */
export async function send(path, { method = "GET", more = {}, signal } = {}) {
  let answer;
  try {
    answer = await fetch(API + path, {
      method, signal, headers: headers(more), credentials: "same-origin", cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "Nissa does not answer.",
      "Nissa does not answer. Look with `esper up` whether the stack runs, then try again.");
  }
  if (!answer.ok) throw await errorOf(answer);
  return answer.status === 204 ? null : answer.json();
}

/** GET with parameters; a list gives its name several times, null none. */
export function get(path, params = {}, signal) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) {
    for (const one of [value].flat()) {
      if (one !== null && one !== undefined) query.append(name, one);
    }
  }
  const text = query.toString();
  return send(text ? `${path}?${text}` : path, { signal });
}

/** Changes a code for a session. */
export async function enter(code) {
  const session = await send("/session", {
    method: "POST", more: { Authorization: `Bearer ${code}` },
  });
  localStorage.setItem(KEY, session.key);
  return session;
}

/** Ends the session in this browser. */
export async function leave() {
  try {
    await send("/session", { method: "DELETE" });
  } finally {
    localStorage.removeItem(KEY);
  }
}

/** Does `work` on each of `items`, at most `most` at a time; results in order. */
export async function each(items, most, work) {
  const results = new Array(items.length);
  let next = 0;
  const hand = async () => {
    while (next < items.length) {
      const at = next++;
      results[at] = await work(items[at]);
    }
  };
  await Promise.all(Array.from({ length: Math.min(most, items.length) }, hand));
  return results;
}
