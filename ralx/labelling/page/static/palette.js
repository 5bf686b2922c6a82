// Colours of classes, and how labels and guesses look over a photograph.

// Okabe and Ito's colours, which people with any colour vision tell apart; the black one is left out.
const SAFE = [
  [230, 159, 0],
  [86, 180, 233],
  [0, 158, 115],
  [240, 228, 66],
  [0, 114, 178],
  [213, 94, 0],
  [204, 121, 167],
  [255, 255, 255],
];

/** As many colours as classes: past the eighth they come darker, then paler. */
export function safeColours(count) {
  const shades = [(part) => part, (part) => part * 0.5, (part) => 255 - (255 - part) * 0.45];
  return Array.from({ length: count }, (_, i) =>
    SAFE[i % SAFE.length].map((part) =>
      Math.round(shades[Math.floor(i / SAFE.length) % shades.length](part)),
    ),
  );
}

/** "black" or "white", whichever reads better on a colour. */
export function inkOn([red, green, blue]) {
  return 0.2126 * (red / 255) ** 2.2 + 0.7152 * (green / 255) ** 2.2 + 0.0722 * (blue / 255) ** 2.2 > 0.2
    ? "black"
    : "white";
}

/** The colour of each label value with this opacity (0 to 1), as a word of ImageData; unlabelled is clear. */
export function words(colours, opacity) {
  const bytes = new Uint8Array(4 * 256);
  colours.forEach((colour, c) => bytes.set([...colour, Math.round(255 * opacity)], 4 * c));
  return new Uint32Array(bytes.buffer);
}
