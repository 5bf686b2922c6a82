// The picture of a region: photograph, labels, frame; zoom and pan; drawn again only where it changed.

import { UNLABELLED } from "./raster.js";
import { words } from "./palette.js";

const LEAST_ZOOM = 0.25;
const MOST_ZOOM = 64; // screen pixels a pixel
const PIXELATED = 12; // the zoom from which single pixels of the photograph are told apart
const FIT = 0.8; // of the viewport that the region fills
const DIM = 0.42; // what is left of the light around the region

export class View {
  constructor(viewport) {
    this.viewport = viewport;
    this.stages = viewport.querySelectorAll(".stage"); // the guess has one of its own, which is striped
    this.photo = viewport.querySelector("#photo");
    this.labelCanvas = viewport.querySelector("#label");
    this.guessCanvas = viewport.querySelector("#guess");
    this.hoverCanvas = viewport.querySelector("#hover");
    this.frame = viewport.querySelector("#frame");
    this.zoom = 1;
    this.x = this.y = 0; // where the surroundings' corner is in the viewport
    this.box = this.painting = null;
    this.guess = null;
    this.hovered = null;
    this.isFitted = true; // until somebody moves or zooms
    this.style = { colours: [], opacity: 0.6, labels: true, guess: true };
    this.onMove = () => {};
    new ResizeObserver(() => (this.isFitted ? this.fit() : this.place())).observe(viewport);
  }

  /** Show a region: `bitmap` of its surroundings, `box` in that bitmap, its painting and the guess or null. */
  show(bitmap, box, painting, guess) {
    Object.assign(this, { box, painting, guess });
    const { photo } = this;
    const context = photo.getContext("2d", { willReadFrequently: true });
    photo.width = bitmap.width;
    photo.height = bitmap.height;
    context.drawImage(bitmap, 0, 0);
    this.rgba = context.getImageData(box.left, box.top, box.width, box.height).data;
    context.fillStyle = `rgb(18 20 24 / ${1 - DIM})`;
    context.fillRect(0, 0, bitmap.width, bitmap.height);
    context.drawImage(
      bitmap,
      box.left,
      box.top,
      box.width,
      box.height,
      box.left,
      box.top,
      box.width,
      box.height,
    );
    for (const canvas of [this.labelCanvas, this.guessCanvas, this.hoverCanvas]) {
      canvas.width = box.width;
      canvas.height = box.height;
      canvas.style.left = `${box.left}px`;
      canvas.style.top = `${box.top}px`;
    }
    this.labelled = new Layer(this.labelCanvas);
    this.guessed = new Layer(this.guessCanvas);
    this.hovered = null;
    this.viewport.classList.add("shown");
    this.fit();
    this.redraw();
  }

  hide() {
    this.painting = null;
    this.viewport.classList.remove("shown");
  }

  restyle(change) {
    Object.assign(this.style, change);
    const { colours, opacity } = this.style;
    this.solid = words(colours, opacity);
    this.edge = words(colours, Math.min(1, opacity + 0.35));
    this.plain = words(colours, 1);
    this.viewport.querySelector("#stripes").style.opacity = opacity;
    this.redraw();
  }

  redraw() {
    if (this.painting) this.draw({ x0: 0, y0: 0, x1: this.box.width, y1: this.box.height });
  }

  /** Draw the labels again in a rectangle; an edge depends on the pixels next to it. */
  draw(rect) {
    if (!rect || !this.painting) return;
    const { width, height, label } = this.painting;
    const { guess, labelled, guessed, solid, edge, plain } = this;
    const x0 = Math.max(0, rect.x0 - 1);
    const x1 = Math.min(width, rect.x1 + 1);
    const y0 = Math.max(0, rect.y0 - 1);
    const y1 = Math.min(height, rect.y1 + 1);
    const showLabels = this.style.labels;
    const showGuess = this.style.guess && guess !== null;
    for (let y = y0; y < y1; y++) {
      for (let x = x0; x < x1; x++) {
        const index = y * width + x;
        const value = label[index];
        if (value === UNLABELLED) {
          labelled.words[index] = 0;
          guessed.words[index] = showGuess ? plain[guess[index]] : 0;
        } else {
          const isEdge =
            (x > 0 && label[index - 1] !== value) ||
            (x + 1 < width && label[index + 1] !== value) ||
            (y > 0 && label[index - width] !== value) ||
            (y + 1 < height && label[index + width] !== value);
          labelled.words[index] = showLabels ? (isEdge ? edge : solid)[value] : 0;
          guessed.words[index] = 0;
        }
      }
    }
    labelled.put(x0, y0, x1 - x0, y1 - y0);
    if (guess) guessed.put(x0, y0, x1 - x0, y1 - y0);
  }

  /** Light up what a click would fill: indices of pixels, or null. */
  hover(pixels) {
    if (pixels?.[0] === this.hovered?.[0] || !this.painting) return; // pieces differ in their first pixel
    this.hovered = pixels;
    const context = this.hoverCanvas.getContext("2d");
    const { width } = this.painting;
    context.clearRect(0, 0, this.hoverCanvas.width, this.hoverCanvas.height);
    context.fillStyle = "rgb(255 255 255 / 0.5)";
    for (const index of pixels || []) context.fillRect(index % width, Math.floor(index / width), 1, 1);
  }

  /** The whole region in the middle, with some of its surroundings. */
  fit() {
    if (!this.box) return;
    const { clientWidth, clientHeight } = this.viewport;
    const { top, left, width, height } = this.box;
    this.zoom = this.limited(FIT * Math.min(clientWidth / width, clientHeight / height));
    this.x = clientWidth / 2 - (left + width / 2) * this.zoom;
    this.y = clientHeight / 2 - (top + height / 2) * this.zoom;
    this.isFitted = true;
    this.place();
  }

  /** Zoom by a factor about a place of the viewport. */
  zoomBy(factor, at = { x: this.viewport.clientWidth / 2, y: this.viewport.clientHeight / 2 }) {
    const zoom = this.limited(this.zoom * factor);
    this.x = at.x - ((at.x - this.x) * zoom) / this.zoom;
    this.y = at.y - ((at.y - this.y) * zoom) / this.zoom;
    this.zoom = zoom;
    this.isFitted = false;
    this.place();
  }

  panBy(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.isFitted = false;
    this.place();
  }

  /** The place in the region that lies under a place of the window, in pixels of the region. */
  toRegion(clientX, clientY) {
    const { left, top } = this.viewport.getBoundingClientRect();
    return {
      x: (clientX - left - this.x) / this.zoom - this.box.left,
      y: (clientY - top - this.y) / this.zoom - this.box.top,
    };
  }

  /** The place in the viewport of a place in the region. */
  toViewport({ x, y }) {
    return { x: this.x + (this.box.left + x) * this.zoom, y: this.y + (this.box.top + y) * this.zoom };
  }

  place() {
    if (!this.box) return;
    const { clientWidth, clientHeight } = this.viewport;
    const { width, height } = this.photo;
    const keep = 60; // screen pixels of the photograph that can't be moved out of sight
    this.x = Math.min(clientWidth - keep, Math.max(keep - width * this.zoom, this.x));
    this.y = Math.min(clientHeight - keep, Math.max(keep - height * this.zoom, this.y));
    for (const stage of this.stages) {
      stage.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.zoom})`;
    }
    this.photo.classList.toggle("pixelated", this.zoom >= PIXELATED);
    const corner = this.toViewport({ x: 0, y: 0 });
    const { style } = this.frame;
    style.transform = `translate(${corner.x}px, ${corner.y}px)`;
    style.width = `${this.box.width * this.zoom}px`;
    style.height = `${this.box.height * this.zoom}px`;
    this.onMove();
  }

  limited(zoom) {
    return Math.min(MOST_ZOOM, Math.max(LEAST_ZOOM, zoom));
  }
}

/** A canvas of the region's size, and its pixels as words to write. */
class Layer {
  constructor(canvas) {
    this.context = canvas.getContext("2d");
    this.image = new ImageData(canvas.width, canvas.height);
    this.words = new Uint32Array(this.image.data.buffer);
  }

  put(x, y, width, height) {
    this.context.putImageData(this.image, 0, 0, x, y, width, height);
  }
}
