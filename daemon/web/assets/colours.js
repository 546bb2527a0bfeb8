// Colours of patch maps, the same as those of `parfocal score --maps` (daemon/mapcolours.py): hue for the value,
// colourfulness for the certainty, and the lightness left to the image. OKLab: B. Ottosson, 2020.

const HUE_LOW = 268, HUE_HIGH = 430, CHROMA = 0.15, DARK = 0.4, BRIGHT = 0.94;
export const LIGHTNESSES = 128, HUES = 64, CHROMAS = 16;
export const BAR_LIGHTNESS = 0.62;

function linear(light, chroma, angle) {
  const a = chroma * Math.cos(angle), b = chroma * Math.sin(angle);
  const l = (light + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (light - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (light - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
}

function encoded(part) {
  const clipped = Math.min(Math.max(part, 0), 1);
  return Math.round(255 * (clipped <= 0.0031308 ? 12.92 * clipped : 1.055 * clipped ** (1 / 2.4) - 0.055));
}

let table = null;

// Every colour there is, as 32 bit for an ImageData: [lightness][hue][chroma].
export function colours() {
  if (table) return table;
  table = new Uint32Array(LIGHTNESSES * HUES * CHROMAS);
  for (let i = 0; i < LIGHTNESSES; i += 1) {
    const light = DARK + ((BRIGHT - DARK) * i) / (LIGHTNESSES - 1);
    for (let j = 0; j < HUES; j += 1) {
      const angle = ((HUE_LOW + ((HUE_HIGH - HUE_LOW) * j) / (HUES - 1)) * Math.PI) / 180;
      let room = CHROMA; // by steps of 6 % into what a screen can show
      for (let turn = 0; turn < 24 && linear(light, room, angle).some((part) => part < 0 || part > 1); turn += 1) room *= 0.94;
      for (let k = 0; k < CHROMAS; k += 1) {
        const [red, green, blue] = linear(light, (room * k) / (CHROMAS - 1), angle).map(encoded);
        table[(i * HUES + j) * CHROMAS + k] = 0xff000000 | (blue << 16) | (green << 8) | red;
      }
    }
  }
  return table;
}

const step = (part, count) => Math.trunc(Math.min(Math.max(part, 0), 1) * (count - 1) + 0.5);
export const lightnessStep = (part) => step(part, LIGHTNESSES) * HUES * CHROMAS;
export const code = (share, certainty) => step(share, HUES) * CHROMAS + step(certainty, CHROMAS);
