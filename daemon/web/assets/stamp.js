// A word burnt into a corner of an image, so that whoever copies the image copies the word.

export function stamp(pen, text, { paper, ink, bottom = false }) {
  const { width, height } = pen.canvas;
  const size = Math.max(9, Math.round(width / 22));
  pen.font = `700 ${size}px system-ui, sans-serif`;
  const wide = pen.measureText(text).width, top = bottom ? height - 1.7 * size : 0.3 * size;
  pen.fillStyle = paper;
  pen.fillRect(width - wide - 1.2 * size, top, wide + 0.8 * size, 1.4 * size);
  pen.fillStyle = ink;
  pen.textBaseline = "middle";
  pen.fillText(text, width - wide - 0.8 * size, top + 0.75 * size);
}

export const SIMULATED = { paper: "#ffb000", ink: "#14181d" };
export const COMPUTED = { paper: "#5b2bb0", ink: "#ffffff", bottom: true };
