// What the two drawn tables (seeds, health) share: sharp canvases, ticks, drags that zoom.

import { color } from "./palette.js";
import { number, short } from "./format.js";

/** Sizes a canvas for the screen's pixels; gives its context, in CSS pixels. */
export function sharp(canvas, width, height) {
  const ratio = devicePixelRatio || 1;
  const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== wide || canvas.height !== high) {
    canvas.width = wide;
    canvas.height = high;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const ctx = canvas.getContext("2d");
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.clearRect(0, 0, width, height);
  return ctx;
}

/** Round steps for an axis: about one every 90 pixels. */
export function ticks([first, last], width) {
  const rough = (last - first) / Math.max(1, Math.floor(width / 90));
  const power = 10 ** Math.floor(Math.log10(Math.max(rough, 1)));
  const every = Math.max(1, [1, 2, 5, 10].find((one) => one * power >= rough) * power);
  const found = [];
  for (let at = Math.ceil(first / every) * every; at <= last; at += every) found.push(at);
  return found;
}

/** Draws an axis of steps below `top`. */
export function drawAxis(ctx, range, { left, right, top }) {
  const [first, last] = range.view();
  const scale = (right - left) / (last - first || 1);
  ctx.font = "11px system-ui, sans-serif";
  ctx.textBaseline = "top";
  ctx.textAlign = "center";
  for (const step of ticks([first, last], right - left)) {
    const x = left + (step - first) * scale;
    ctx.fillStyle = color("--line");
    ctx.fillRect(Math.round(x), top, 1, 4);
    ctx.fillStyle = color("--fg-2");
    ctx.fillText(step >= 1e5 ? short(step) : number(step), Math.min(x, right - 12), top + 6);
  }
}

/** Text that is cut to a width. */
export function fitted(ctx, text, width) {
  if (ctx.measureText(text).width <= width) return text;
  let end = text.length;
  while (end > 1 && ctx.measureText(`${text.slice(0, end)}…`).width > width) end--;
  return `${text.slice(0, end)}…`;
}

/**
 * Lets a drag over a canvas zoom and a double click show all; `toStep(x)` turns pixels to steps.
 * `click(event)` is called for what is neither.
 */
export function dragZoom(canvas, range, band, toStep, click) {
  let from = null;
  let moved = false;
  const x = (event) => event.clientX - canvas.getBoundingClientRect().left;
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button || event.pointerType === "touch") return;
    from = x(event);
    moved = false;
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (from === null) return;
    moved ||= Math.abs(x(event) - from) > 5;
    band.hidden = !moved;
    band.style.left = `${canvas.offsetLeft + Math.min(from, x(event))}px`;
    band.style.width = `${Math.abs(x(event) - from)}px`;
  });
  const end = (event) => {
    band.hidden = true;
    if (from !== null && moved && event.type === "pointerup") {
      const ends = [toStep(from), toStep(x(event))].sort((a, b) => a - b);
      range.setZoom(...ends);
    }
    from = null;
  };
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  canvas.addEventListener("click", (event) => {
    if (!moved) click?.(event);
    moved = false;
  });
  canvas.addEventListener("dblclick", () => range.reset());
}
