// The stages of every seed over the steps, folded from the moves of the journal.

/**
 * Rows `{layer, seed, segments: [{from, to, stage, move}]}`, one a seed, in the order of layers;
 * `to` is null while the stage lasts.
 */
export function seedRows({ layers, moves, rollbacks }) {
  const rows = [];
  const byPlace = new Map();
  const row = (layer, seed) => {
    const place = `${layer}\u0000${seed}`;
    if (!byPlace.has(place)) {
      const made = {
        layer, seed, segments: [{ from: 0, to: null, stage: "DORMANT", move: null }],
      };
      byPlace.set(place, made);
      rows.push(made);
    }
    return byPlace.get(place);
  };
  for (const layer of layers) {
    for (let seed = 0; seed < layer.seeds; seed++) row(layer.name, seed);
  }
  const pending = [...rollbacks].sort((a, b) => (a.at < b.at ? -1 : 1));
  for (const move of moves) {
    while (pending.length && pending[0].at <= move.at) undo(rows, pending.shift().to_step);
    const { segments } = row(move.layer, move.seed);
    const last = segments.at(-1);
    last.to = move.step;
    // stages passed within one step leave nothing to draw
    if (last.to <= last.from && segments.length > 1 && last.stage === "DORMANT") segments.pop();
    segments.push({ from: move.step, to: null, stage: move.to_stage, move });
  }
  pending.forEach((one) => undo(rows, one.to_step));
  return rows;
}

/** Takes away what came after a step: a rollback left that timeline. */
function undo(rows, step) {
  for (const { segments } of rows) {
    while (segments.length > 1 && segments.at(-1).from > step) segments.pop();
    segments.at(-1).to = null;
  }
}

/** The segment of a row at a step. */
export function segmentAt(row, step) {
  return row.segments.findLast((one) => one.from <= step && (one.to === null || step < one.to))
    || null;
}

/** Whether anything ever grew there. */
export function grew(row) {
  return row.segments.length > 1;
}
