// The label of one region as it is painted: edits that can be undone.

import { UNLABELLED } from "./raster.js";

const MOST_EDITS = 300; // that can be undone

export class Painting {
  /** `saved`: the label that the server has, Uint8Array of the region's pixels, row by row. */
  constructor(width, height, saved) {
    this.width = width;
    this.height = height;
    this.saved = saved;
    this.label = saved.slice();
    this.done = [];
    this.undone = [];
    this.before = null; // the label before the edit that is being made
    this.touched = null; // where that edit changed something
  }

  begin() {
    this.before = this.label.slice();
    this.touched = null;
  }

  /** Give one pixel a class during an edit; with `isProtected`, only one that had none before it. */
  paint(index, value, isProtected = false) {
    if (this.label[index] === value || (isProtected && this.before[index] !== UNLABELLED)) return;
    this.label[index] = value;
    const x = index % this.width;
    const y = (index - x) / this.width;
    const rect = this.touched;
    if (!rect) {
      this.touched = { x0: x, y0: y, x1: x + 1, y1: y + 1 };
    } else {
      if (x < rect.x0) rect.x0 = x;
      if (x >= rect.x1) rect.x1 = x + 1;
      if (y < rect.y0) rect.y0 = y;
      if (y >= rect.y1) rect.y1 = y + 1;
    }
  }

  /** Close the edit. Says whether it changed anything. */
  commit() {
    const { before, touched } = this;
    this.before = this.touched = null;
    if (!touched) return false;
    this.done.push({ rect: touched, other: this.cut(before, touched) });
    if (this.done.length > MOST_EDITS) this.done.shift();
    this.undone = [];
    return true;
  }

  /** Take the edit that is being made back. Says where. */
  cancel() {
    const { before, touched } = this;
    this.before = this.touched = null;
    if (touched) this.label.set(before);
    return touched;
  }

  /** Says where something changed; null where nothing was left to undo. */
  undo() {
    return this.swap(this.done, this.undone);
  }

  redo() {
    return this.swap(this.undone, this.done);
  }

  /** An edit as a whole: `change` calls `paint`. Says whether anything changed. */
  edit(change) {
    this.begin();
    change();
    return this.commit();
  }

  /** The index of the pixel at a place; null outside. */
  indexAt({ x, y }) {
    const isInside = x >= 0 && y >= 0 && x < this.width && y < this.height;
    return isInside ? Math.floor(y) * this.width + Math.floor(x) : null;
  }

  isEmpty() {
    return this.label.every((value) => value === UNLABELLED);
  }

  isSaved() {
    return this.label.every((value, index) => value === this.saved[index]);
  }

  /** How many pixels each class has: 256 numbers. */
  counts(label = this.label) {
    const counts = new Uint32Array(256);
    for (const value of label) counts[value]++;
    return counts;
  }

  swap(from, to) {
    const edit = from.pop();
    if (!edit) return null;
    const { rect } = edit;
    const current = this.cut(this.label, rect);
    const columns = rect.x1 - rect.x0;
    for (let y = rect.y0; y < rect.y1; y++) {
      const row = edit.other.subarray((y - rect.y0) * columns, (y - rect.y0 + 1) * columns);
      this.label.set(row, y * this.width + rect.x0);
    }
    to.push({ rect, other: current });
    return rect;
  }

  cut(label, rect) {
    const columns = rect.x1 - rect.x0;
    const part = new Uint8Array(columns * (rect.y1 - rect.y0));
    for (let y = rect.y0; y < rect.y1; y++) {
      const start = y * this.width + rect.x0;
      part.set(label.subarray(start, start + columns), (y - rect.y0) * columns);
    }
    return part;
  }
}
