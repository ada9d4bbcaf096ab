// The stream of events, read by fetch: EventSource cannot send the session's key.

import { errorOf, headers } from "./api.js";

const WAITS = [1, 2, 4, 8, 15];
// a comment line comes every 10 s; without any byte for this long the line is dead
const SILENCE_MS = 30_000;

/** Splits text of an event stream into messages `{id, event, data}`; keeps what is unfinished. */
export function makeParser(give) {
  let rest = "";
  let message = { event: "message", data: [] };
  return (text) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop();
    for (const raw of lines) {
      const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
      if (!line) {
        // an id without data says up to where nothing was missed
        if (message.data.length || message.id) {
          give({ ...message, data: message.data.join("\n") });
        }
        message = { event: "message", data: [] };
        continue;
      }
      const colon = line.indexOf(":");
      if (colon === 0) continue;
      const field = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (field === "data") message.data.push(value);
      else if (field === "id") message.id = value;
      else if (field === "event") message.event = value;
    }
  };
}

/** Done when the page can be seen, or is left. */
function shown(signal) {
  return new Promise((go) => {
    const look = () => {
      if (document.hidden && !signal.aborted) return;
      document.removeEventListener("visibilitychange", look);
      go();
    };
    document.addEventListener("visibilitychange", look);
    signal.addEventListener("abort", look, { once: true });
    look();
  });
}

/**
 * Reads the stream until `close()`, connecting again where it ends.
 * `on` has a function by event kind, and `state(name, seconds)` and `failed(error)`.
 */
export function openStream(run, on) {
  const stop = new AbortController();
  let last = "";
  let failures = 0;

  const take = (message) => {
    if (message.id) last = message.id;
    failures = 0;
    if (!message.data) return;
    let data;
    try {
      data = JSON.parse(message.data);
    } catch {
      return;
    }
    on[message.event]?.(data);
  };

  const read = async () => {
    const once = new AbortController();
    const end = () => once.abort();
    stop.signal.addEventListener("abort", end);
    // a browser has six connections to a host: tabs that nobody sees would keep the others waiting
    const hide = () => document.hidden && end();
    document.addEventListener("visibilitychange", hide);
    let timer = setTimeout(end, SILENCE_MS);
    try {
      const query = run ? `?run=${encodeURIComponent(run)}` : "";
      const answer = await fetch(`/api/v1/page/stream${query}`, {
        headers: headers(last ? { "Last-Event-ID": last } : {}),
        credentials: "same-origin", cache: "no-store", signal: once.signal,
      });
      if (!answer.ok) throw await errorOf(answer);
      on.state?.("live");
      const parse = makeParser(take);
      const decoder = new TextDecoder();
      const reader = answer.body.getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        clearTimeout(timer);
        timer = setTimeout(end, SILENCE_MS);
        parse(decoder.decode(value, { stream: true }));
      }
    } finally {
      clearTimeout(timer);
      stop.signal.removeEventListener("abort", end);
      document.removeEventListener("visibilitychange", hide);
    }
  };

  const loop = async () => {
    while (!stop.signal.aborted) {
      await shown(stop.signal);
      try {
        await read();
      } catch (error) {
        if (stop.signal.aborted) return;
        // to ask again would not change these answers
        if (error.status === 401 || error.status === 403 || error.status === 404) {
          on.failed?.(error);
          return;
        }
      }
      if (stop.signal.aborted) return;
      if (document.hidden) continue;
      const seconds = WAITS[Math.min(failures++, WAITS.length - 1)];
      on.state?.("waiting", seconds);
      await new Promise((go) => {
        const timer = setTimeout(go, seconds * 1000);
        stop.signal.addEventListener("abort", () => (clearTimeout(timer), go()), { once: true });
      });
    }
  };
  loop();
  return { close: () => stop.abort() };
}
