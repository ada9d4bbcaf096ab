// What happened to seeds, as marks on the axis of steps: a shape and a letter each.

import { color } from "./palette.js";
import { MARKS, place } from "./words.js";

const BY_STAGE = { GERMINATED: "graft", FOSSILIZED: "keep", CULLED: "cull" };
const APART = 22;
const LANE = 15;
/** Kinds that stand beside each other, from the plot up: so a keep never covers a cull. */
const LANES = [["graft"], ["keep"], ["cull"], ["rollback", "fork"]];

/** The lanes that these marks need. */
export function lanesOf(marks) {
  const kinds = new Set(marks.map((mark) => mark.kind));
  return LANES.filter((lane) => lane.some((kind) => kinds.has(kind)));
}

/** Height of the strip above the plot for so many lanes. */
export function stripOf(lanes) {
  return lanes.length * LANE + 7;
}

/** The marks of a run in order of steps: `{kind, step, text, move}`. */
export function marksOf({ moves, rollbacks, forks, run }) {
  const marks = [];
  for (const move of moves) {
    const kind = BY_STAGE[move.to_stage];
    if (!kind || move.inherited) continue;
    const family = move.family ? ` ${move.family}` : "";
    const text = kind === "graft" ? `Graft${family} onto ${place(move)}`
      : `${kind === "keep" ? "Keep" : "Cull"}${family} of ${place(move)}`;
    marks.push({ kind, step: move.step, text, move });
  }
  for (const one of rollbacks) {
    const text = `Rollback from step ${one.step} to ${one.to_step}: ${one.reason}`;
    marks.push({ kind: "rollback", step: one.step, text, rollback: one });
  }
  for (const one of forks) {
    marks.push({ kind: "fork", step: one.step, text: `Run ${one.run_id} forks off`, fork: one });
  }
  if (run.parent) {
    const text = `Forked from ${run.parent}`;
    marks.push({ kind: "fork", step: run.forked_step ?? 0, text, parent: run.parent });
  }
  return marks.sort((a, b) => a.step - b.step);
}

/** Draws a mark's shape around a point; `size` is half its width. */
function drawShape(ctx, kind, x, y, size, letter) {
  const { shape, color: name } = MARKS[kind];
  ctx.beginPath();
  if (shape === "circle") ctx.arc(x, y, size, 0, 2 * Math.PI);
  else if (shape === "square") ctx.rect(x - size * 0.9, y - size * 0.9, size * 1.8, size * 1.8);
  else {
    const points = {
      triangle: [[0, -1.15], [1.15, 0.9], [-1.15, 0.9]],
      diamond: [[0, -1.2], [1.2, 0], [0, 1.2], [-1.2, 0]],
      left: [[-1.25, 0], [0.85, -1.1], [0.85, 1.1]],
    }[shape];
    points.forEach(([dx, dy], at) => ctx[at ? "lineTo" : "moveTo"](x + dx * size, y + dy * size));
    ctx.closePath();
  }
  ctx.fillStyle = color(name);
  ctx.fill();
  ctx.fillStyle = color("--bg");
  ctx.font = `700 ${Math.round(size * 1.15)}px system-ui, sans-serif`;
  ctx.textAlign = "center";
  ctx.textBaseline = "middle";
  const low = { triangle: 0.25, left: 0.05 }[shape] || 0.05;
  ctx.fillText(letter, x + (shape === "left" ? size * 0.15 : 0), y + size * low);
}

/**
 * Marks that would cover each other, as groups `{x, kind, marks}`; `toX` gives pixels.
 * A group of forks and rollbacks shows the rollback.
 */
export function grouped(marks, view, toX) {
  const groups = [];
  for (const mark of marks) {
    if (mark.step < view[0] || mark.step > view[1]) continue;
    const x = toX(mark.step);
    const last = groups.at(-1);
    if (last && x - last.x < APART) {
      last.marks.push(mark);
      if (mark.kind === "rollback") last.kind = mark.kind;
    } else groups.push({ x, kind: mark.kind, marks: [mark] });
  }
  return groups;
}

/** The group at a place: `x` from the left of the plot, `above` its upper end. */
export function groupAt(groups, x, above) {
  return groups.find((group) => Math.abs(group.x - x) <= 9
    && Math.abs(group.above - above) <= LANE / 2) || null;
}

/** Draws groups in the strip above the plot, with a line down through it; gives the groups. */
export function drawMarks(plot, marks, range) {
  const { ctx, bbox } = plot;
  const ratio = devicePixelRatio;
  const toX = (step) => plot.valToPos(step, "x");
  const groups = lanesOf(marks).flatMap((lane, at) => grouped(
    marks.filter((one) => lane.includes(one.kind)), range.view(), toX,
  ).map((group) => ({ ...group, above: at * LANE + LANE / 2 + 2 })));
  ctx.save();
  for (const group of groups) {
    const x = bbox.left + group.x * ratio;
    ctx.strokeStyle = color(MARKS[group.kind].color);
    ctx.globalAlpha = 0.35;
    ctx.lineWidth = ratio;
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.globalAlpha = 1;
    const many = group.marks.length;
    const y = bbox.top - group.above * ratio;
    drawShape(ctx, group.kind, x, y, 6.5 * ratio, MARKS[group.kind].letter);
    if (many === 1) continue;
    ctx.fillStyle = color("--fg-2");
    ctx.font = `${9 * ratio}px system-ui, sans-serif`;
    ctx.textAlign = "left";
    ctx.fillText(many > 99 ? "99" : String(many), x + 7.5 * ratio, y - 3 * ratio);
  }
  ctx.restore();
  return groups;
}

/** Lines of a tip on a group of marks. */
export function groupLines(group) {
  const shown = group.marks.slice(0, 8).map((mark) =>
    `${MARKS[mark.kind].letter} · step ${mark.step} · ${mark.text}`);
  const more = group.marks.length - shown.length;
  return [
    group.marks.length > 1 ? `${group.marks.length} marks` : `Step ${group.marks[0].step}`,
    ...shown,
    more > 0 && `and ${more} more: zoom in`,
  ];
}
