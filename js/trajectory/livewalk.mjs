/** Painting ahead of a walk: the graph is queued by itself with a path that is a chunk longer. */

import { Grid, readGrid } from "../viewer/zbuffer.mjs";
import { gridOf } from "../viewer/scene.mjs";

/** Shares of a view, in percent, below which the next chunk is made; 0 makes none. */
export const SHARES = Object.freeze([0, 50, 70, 90, 101]);

/** Lengths of chunks of a Mirage Rollout Start that says nothing else. */
const LENGTHS = { first_chunk_frames: 33, chunk_frames: 33, overlap_frames: 1 };

/** What ends a prompt, and whether the walk may go on with the next one. */
const ENDS = { execution_success: true, execution_error: false, execution_interrupted: false };

export class LiveWalk {
  /** @param {object} widget the trajectory widget */
  constructor(widget) {
    this.widget = widget;
    /** One of `SHARES`. */
    this.share = 0;
    this.paused = false;
    /** A prompt of this walk is queued or runs. */
    this.painting = false;
    /** Steps of the walk that were queued. */
    this.sent = 0;
    /** Least share of a view since then. */
    this.known = 1;
    /** Prompts in the server's queue, whoever queued them. */
    this.waiting = 0;
    this.grid = new Grid(0, 0);
    this.heard = new AbortController();
    const listen = (name, heard) =>
      widget.bridge.api.addEventListener(name, heard, { signal: this.heard.signal });
    for (const [name, good] of Object.entries(ENDS)) listen(name, () => this.#ended(good));
    listen("status", ({ detail }) => {
      this.waiting = detail?.exec_info?.queue_remaining ?? 0;
      this.#queue();
    });
  }

  get on() {
    return this.share > 0 && !this.paused;
  }

  /** A walk begins, or goes on behind steps that the node holds already. */
  begin(steps) {
    Object.assign(this, { paused: false, sent: this.#whole(steps), known: 1 });
  }

  /** The walker is further, and sees this. */
  moved() {
    const { ensemble, model, walk } = this.widget;
    const { rows, columns } = gridOf(model.scene);
    if (this.grid.rows !== rows || this.grid.columns !== columns) this.grid = new Grid(rows, columns);
    readGrid(ensemble.still, walk.camera, model.scene, this.grid);
    this.known = Math.min(this.known, this.grid.coverage);
    this.#queue();
  }

  /** True while the walker is a chunk ahead of what is painted: then it waits. */
  get full() {
    return this.on && this.painting && this.widget.walk.steps >= this.#whole(this.sent, 1);
  }

  pause() {
    this.paused = !this.paused;
    this.#queue();
  }

  /** Steps were taken back. */
  undone(steps) {
    this.sent = Math.min(this.sent, this.#whole(steps));
    this.known = 1;
  }

  /** Steps that fill whole chunks, of some steps; `more` chunks further. */
  #whole(steps, more = 0) {
    const found = { ...LENGTHS };
    const values = this.#downstream("MirageRolloutStart")[0]?.widgets ?? [];
    for (const { name, value } of values) if (name in found && value > 0) found[name] = value;
    const first = found.first_chunk_frames - 1;
    const later = Math.max(1, found.chunk_frames - found.overlap_frames);
    const chunks = steps < first ? 0 : 1 + Math.floor((steps - first) / later);
    return chunks + more ? first + (chunks + more - 1) * later : 0;
  }

  /** Nodes of a class that this node's path leads to, in the same graph. */
  #downstream(kind) {
    const { node } = this.widget;
    const waiting = [node];
    const seen = new Set();
    while (waiting.length) {
      const next = waiting.pop();
      if (!next || seen.has(next)) continue;
      seen.add(next);
      (next.outputs ?? []).forEach((_, slot) => waiting.push(...(next.getOutputNodes?.(slot) ?? [])));
    }
    return [...seen].filter((found) => found.comfyClass === kind);
  }

  /** Queue the whole chunks that are walked and not painted, if there is something to paint. */
  async #queue() {
    const { walk, node, bridge } = this.widget;
    if (!walk.active || !this.on || this.painting || this.waiting) return;
    const steps = this.#whole(walk.steps);
    if (steps <= this.sent || 100 * this.known >= this.share) return;
    this.painting = true;
    Object.assign(this, { sent: steps, known: 1 });
    walk.write(walk.recorder.textOf(steps));
    walk.tell();
    // The shot alone: videos and pictures of every step would fill the output folder.
    const wanted = this.#downstream("MirageRolloutResult").map(({ id }) => String(id));
    const inside = node.graph !== (node.graph?.rootGraph ?? node.graph);
    const targets = wanted.length && !inside ? wanted : undefined;
    const queued = await bridge.app.queuePrompt(0, 1, targets).catch(() => false);
    if (queued === false) this.#ended(false);
  }

  #ended(good) {
    if (!this.painting) return;
    this.painting = false;
    // A prompt that failed would fail again.
    if (!good) this.paused = true;
    this.widget.walk.tell();
    this.#queue();
  }

  /** What the note says in place of how one walks; null for nothing. */
  get note() {
    const { text } = this.widget;
    if (this.full) return text("paintingWaits");
    if (this.painting) return text("painting", { frame: this.sent });
    if (this.paused && this.share > 0) return text("paintingPaused");
    return null;
  }

  dispose() {
    this.heard.abort();
  }
}
