// Brush, eraser, lasso and fill: what the pointer does to the painting. Places are collected as they come and
// worked off once a frame, so that painting keeps up with the pen.

import { UNLABELLED, alike, inside, snapped, stroke, union } from "./raster.js";

export const TOOLS = ["brush", "eraser", "lasso", "fill"];
export const MOST_SIZE = 200; // pixels of a brush

export class Tools {
  /** `view` shows what changes; `onEdit` is called after each edit. */
  constructor(view, onEdit) {
    Object.assign(this, { view, onEdit });
    this.tool = "brush";
    this.size = 12;
    this.tolerance = 24;
    this.value = 0; // the class that is painted
    this.isProtected = false;
    this.isLocked = false; // nothing can be painted
    this.pieces = null; // superpixels, once they are there
    this.place = null; // of the pointer, in the region
    this.active = null; // the value that the edit in hand paints
    this.queue = [];
    this.outline = [];
    this.cursor = view.viewport.querySelector("#cursor");
    this.ink = [...view.viewport.querySelectorAll("#ink polygon")];
    this.spent = []; // milliseconds of work a frame, for who measures
    view.onMove = () => this.request();
    this.onShow = this.onOptions = () => {}; // called with the pointer's place each frame; when an option changed
  }

  /** Whether an edit may begin. */
  get isFree() {
    return this.painting !== null && this.active === null && !this.isLocked;
  }

  get painting() {
    return this.view.painting;
  }

  /** Begin an edit at a place; with `erase`, whatever the tool, it takes labels away. */
  press(place, { erase = false } = {}) {
    if (!this.painting || this.isLocked) return;
    this.active = erase || this.tool === "eraser" ? UNLABELLED : this.value;
    this.painting.begin();
    this.outline = [];
    this.last = place;
    this.move([place]);
  }

  /** The pointer went through these places. */
  move(places) {
    this.place = places.at(-1);
    if (this.active !== null) this.queue.push(...places);
    this.request();
  }

  /** End the edit. */
  lift() {
    if (this.active === null) return;
    this.work();
    if (this.tool === "lasso" && this.outline.length > 2) {
      inside(this.painting, this.outline, (index) => this.paint(index));
      this.view.draw(this.painting.touched);
    }
    this.active = null;
    this.outline = [];
    const hasChanged = this.painting.commit();
    this.request();
    if (hasChanged) this.onEdit();
  }

  /** Take the edit in hand back, as where a second finger shows that the first was no stroke. */
  cancel() {
    if (this.active === null) return;
    this.active = null;
    this.queue = [];
    this.outline = [];
    this.view.draw(this.painting.cancel());
    this.request();
  }

  leave() {
    this.place = null;
    this.request();
  }

  /** Change options: tool, size, tolerance, or pieces, the superpixels to fill by (null for a fill by colour). */
  set(options) {
    Object.assign(this, options);
    this.onOptions();
    this.request();
  }

  /** Make the brush larger by so many steps, or what counts as a like colour wider. */
  resize(steps) {
    if (this.tool === "fill" && !this.pieces) {
      this.set({ tolerance: Math.min(100, Math.max(4, this.tolerance + 4 * steps)) });
    } else {
      const step = Math.max(1, Math.round(this.size * 0.15));
      this.set({ size: Math.min(MOST_SIZE, Math.max(1, this.size + step * steps)) });
    }
  }

  request() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.work();
      this.show();
    });
  }

  work() {
    if (!this.queue.length || !this.painting) return;
    const started = performance.now();
    const places = this.queue.splice(0);
    const { painting } = this;
    if (this.tool === "lasso") {
      this.outline.push(...places);
    } else {
      let rect = null;
      for (const place of places) {
        if (this.tool === "fill") {
          for (const index of this.under(place) || []) this.paint(index);
          rect = painting.touched;
        } else {
          const { last, size } = this;
          const reach = size / 2 + 1;
          stroke(painting, last, place, size, (index) => this.paint(index));
          rect = union(rect, {
            x0: Math.floor(Math.min(last.x, place.x) - reach),
            y0: Math.floor(Math.min(last.y, place.y) - reach),
            x1: Math.ceil(Math.max(last.x, place.x) + reach),
            y1: Math.ceil(Math.max(last.y, place.y) + reach),
          });
        }
        this.last = place;
      }
      this.view.draw(rect);
    }
    this.spent.push(performance.now() - started);
    if (this.spent.length > 1000) this.spent.shift();
  }

  paint(index) {
    this.painting.paint(index, this.active, this.isProtected && this.active !== UNLABELLED);
  }

  /** The pixels that a fill at this place takes: its superpixel, or what is of a like colour; null outside. */
  under(place) {
    const index = this.painting.indexAt(place);
    if (index === null) return null;
    if (this.pieces) return this.pieces.of(this.pieces.at[index]);
    const pixels = [];
    alike(this.painting, this.view.rgba, index, this.tolerance, (pixel) => pixels.push(pixel));
    return pixels;
  }

  show() {
    const { view, place, tool, cursor } = this;
    const isRound = tool === "brush" || tool === "eraser";
    cursor.hidden = !(place && isRound && view.box);
    if (!cursor.hidden) {
      const { x, y } = view.toViewport(snapped(place, this.size));
      const across = Math.max(4, this.size * view.zoom);
      cursor.style.width = cursor.style.height = `${across}px`;
      cursor.style.transform = `translate(${x - across / 2}px, ${y - across / 2}px)`;
    }
    // A flood by colour is too slow to follow the pointer.
    const isFilling = tool === "fill" && place && this.pieces && this.painting;
    view.hover(isFilling ? this.under(place) : null);
    const points = this.outline
      .map((spot) => view.toViewport(spot))
      .map(({ x, y }) => `${x},${y}`)
      .join(" ");
    for (const polygon of this.ink) {
      if (polygon.getAttribute("points") !== points) polygon.setAttribute("points", points);
    }
    this.onShow(place);
  }
}
