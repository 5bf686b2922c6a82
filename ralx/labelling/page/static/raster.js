// Which pixels of a region a stroke, an outline or a colour covers. A pixel (x, y) has its centre at
// (x + 0.5, y + 0.5); places are in pixels of the region.

export const UNLABELLED = 255;

/** The smallest rectangle that holds both; either may be null. The right and lower ends are outside. */
export function union(a, b) {
  if (!a || !b) return a || b;
  return {
    x0: Math.min(a.x0, b.x0),
    y0: Math.min(a.y0, b.y0),
    x1: Math.max(a.x1, b.x1),
    y1: Math.max(a.y1, b.y1),
  };
}

/** Where a brush of so many pixels sits: an odd one on a pixel's centre, an even one on a corner. */
export function snapped(place, size) {
  return size % 2
    ? { x: Math.floor(place.x) + 0.5, y: Math.floor(place.y) + 0.5 }
    : { x: Math.round(place.x), y: Math.round(place.y) };
}

/** What a round brush covers on its way from one place to another. `visit` is told each pixel's index. */
export function stroke({ width, height }, from, to, size, visit) {
  const a = snapped(from, size);
  const b = snapped(to, size);
  const radius = size / 2;
  const dx = b.x - a.x;
  const dy = b.y - a.y;
  const length2 = dx * dx + dy * dy || 1;
  const x0 = Math.max(0, Math.floor(Math.min(a.x, b.x) - radius));
  const x1 = Math.min(width, Math.ceil(Math.max(a.x, b.x) + radius));
  const y0 = Math.max(0, Math.floor(Math.min(a.y, b.y) - radius));
  const y1 = Math.min(height, Math.ceil(Math.max(a.y, b.y) + radius));
  for (let y = y0; y < y1; y++) {
    for (let x = x0; x < x1; x++) {
      const px = x + 0.5 - a.x;
      const py = y + 0.5 - a.y;
      const along = Math.min(1, Math.max(0, (px * dx + py * dy) / length2));
      const ex = px - along * dx;
      const ey = py - along * dy;
      if (ex * ex + ey * ey <= radius * radius) visit(y * width + x);
    }
  }
}

/** What lies inside an outline, which is closed by itself: pixels whose centre it goes around. */
export function inside({ width, height }, outline, visit) {
  for (let y = 0; y < height; y++) {
    const centre = y + 0.5;
    const crossings = [];
    outline.forEach((a, i) => {
      const b = outline[(i + 1) % outline.length];
      if (a.y <= centre !== b.y <= centre) crossings.push(a.x + ((centre - a.y) / (b.y - a.y)) * (b.x - a.x));
    });
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const end = Math.min(width, Math.ceil(crossings[i + 1] - 0.5));
      for (let x = Math.max(0, Math.ceil(crossings[i] - 0.5)); x < end; x++) visit(y * width + x);
    }
  }
}

/** What is joined to a pixel and of a like colour: at most `tolerance` from it, as a distance in RGB. */
export function alike({ width, height }, rgba, start, tolerance, visit) {
  const seen = new Uint8Array(width * height);
  const front = [start];
  const [red, green, blue] = rgba.subarray(4 * start, 4 * start + 3);
  const limit = tolerance * tolerance;
  seen[start] = 1;
  const reach = (index) => {
    if (seen[index]) return;
    const r = rgba[4 * index] - red,
      g = rgba[4 * index + 1] - green,
      b = rgba[4 * index + 2] - blue;
    if (r * r + g * g + b * b > limit) return;
    seen[index] = 1;
    front.push(index);
  };
  while (front.length) {
    const index = front.pop();
    const x = index % width;
    visit(index);
    if (x > 0) reach(index - 1);
    if (x + 1 < width) reach(index + 1);
    if (index >= width) reach(index - width);
    if (index + width < width * height) reach(index + width);
  }
}

/** The pixels of each superpixel: `of(superpixel)` gives their indices. */
export class Pieces {
  constructor(superpixels) {
    this.at = superpixels;
    const count = superpixels.reduce((a, b) => Math.max(a, b), 0) + 1;
    this.starts = new Uint32Array(count + 1);
    for (const piece of superpixels) this.starts[piece + 1]++;
    for (let i = 0; i < count; i++) this.starts[i + 1] += this.starts[i];
    this.pixels = new Uint32Array(superpixels.length);
    const next = this.starts.slice();
    superpixels.forEach((piece, index) => {
      this.pixels[next[piece]++] = index;
    });
  }

  of(piece) {
    return this.pixels.subarray(this.starts[piece], this.starts[piece + 1]);
  }
}

/** A label as text, run by run: it has few runs, and a browser keeps only a few megabytes of text. */
export function toRuns(label) {
  const runs = [];
  for (let start = 0, i = 1; i <= label.length; i++) {
    if (i === label.length || label[i] !== label[start]) {
      runs.push(`${label[start]}*${i - start}`);
      start = i;
    }
  }
  return runs.join(" ");
}

/** The label that `toRuns` made text of. */
export function fromRuns(text, length) {
  const label = new Uint8Array(length);
  let at = 0;
  for (const run of text.split(" ")) {
    const [value, count] = run.split("*").map(Number);
    label.fill(value, at, at + count);
    at += count;
  }
  return label;
}
