// The live image with the patch map over it, its scale, and what lies under the pointer.

import { BAR_LIGHTNESS, code, colours, lightnessStep } from "./colours.js";
import { SIMULATED, stamp } from "./stamp.js";
import { $, flag, make, put, short, show, ticks } from "./words.js";

const CHOSEN = "parfocal-map";

export function decode(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let at = 4 + length;
  const image = { ...header, pixels: new Uint8Array(buffer, at, header.width * header.height) };
  at += image.pixels.length;
  if (header.refused) image.refused = { ...header.refused, cells: new Uint8Array(buffer, at, header.refused.rows * header.refused.columns) };
  image.maps = (header.maps ?? []).map((map) => {
    const count = map.rows * map.columns;
    const floats = () => new Float32Array(buffer.slice(at, (at += 4 * count)));
    return { ...map, value: floats(), certainty: floats() };
  });
  return image;
}

// What the colours stand for; as in daemon/overlays.py.
export function scaleOf(map, scaleUm) {
  if (map.model === "defocus") {
    const high = map.unit === "um" ? scaleUm : 30;
    if (high) return { low: 0, high, label: `defocus, ${map.unit || "px of blur"}`, above: true, levels: 10 };
  }
  if (map.model === "quality") return { low: 0, high: 1, label: "patch quality", turned: true };
  const known = map.value.filter(Number.isFinite);
  const low = known.length ? Math.min(...known) : 0, high = known.length ? Math.max(...known) : 1;
  return { low, high: high > low ? high : low + 1, label: `${map.model}${map.unit ? `, ${map.unit}` : ""}` };
}

function shareOf(scale, value) {
  const share = Math.min(Math.max((value - scale.low) / (scale.high - scale.low), 0), 1);
  return scale.turned ? 1 - share : share;
}

// For every row (or column) of the preview the patch whose centre is nearest; -1 outside of all.
function cells(length, factor, count, map) {
  const found = new Int16Array(length);
  for (let i = 0; i < length; i += 1) {
    const at = (i + 0.5) * factor - 0.5;
    const near = Math.round((at - (map.patch_px - 1) / 2) / map.stride_px);
    found[i] = at < (count - 1) * map.stride_px + map.patch_px ? Math.min(Math.max(near, 0), count - 1) : -1;
  }
  return found;
}

export class ImageView {
  constructor() {
    this.canvas = $("frame");
    this.image = null;
    this.wanted = true;
    $("show-map").addEventListener("change", (event) => {
      this.wanted = event.target.checked;
      this.draw();
    });
    this.chosen = sessionStorage.getItem(CHOSEN) ?? "";
    $("map-model").addEventListener("change", (event) => {
      this.chosen = event.target.value;
      sessionStorage.setItem(CHOSEN, this.chosen);
      this.draw();
    });
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => show("probe", false));
    new ResizeObserver(() => this.drawScale()).observe($("scale"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.drawScale());
  }

  take(image) {
    this.image = image;
  }

  // Of the maps that came with this image the one that was chosen, else the first; null where there is none.
  get map() {
    const maps = this.image?.maps ?? [];
    return maps.find(({ model }) => model === this.chosen) ?? maps[0] ?? null;
  }

  offer() {
    const names = (this.image?.maps ?? []).map(({ model }) => model), select = $("map-model");
    if ([...select.options].map(({ value }) => value).join() !== names.join()) {
      select.replaceChildren(...names.map((name) => Object.assign(make("option", `${name} map`), { value: name })));
    }
    show("map-model", names.length > 1);
    show("map-name", names.length < 2);
    if (this.map) select.value = this.map.model;
  }

  clear() {
    this.image = null;
    this.canvas.getContext("2d").clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  draw(model = this.model) {
    this.model = model;
    const image = this.image;
    if (!image) return;
    const { width, height } = image, map = this.map;
    this.offer();
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const pen = this.canvas.getContext("2d");
    const data = pen.createImageData(width, height);
    const out = new Uint32Array(data.data.buffer);
    if (map && this.wanted) this.tint(out, { ...image, map }, scaleOf(map, model?.scale_um));
    else for (let i = 0; i < out.length; i += 1) out[i] = 0xff000000 | (image.pixels[i] * 0x010101);
    pen.putImageData(data, 0, 0);
    if (model?.simulated) stamp(pen, "SIMULATED", SIMULATED);
    put("map-name", map ? `${map.model} map` : "no patch map");
    $("show-map").disabled = !map;
    const at = `frame ${image.index}`;
    put("image-note", `${at}, grey ${short(image.low)} to ${short(image.high)} counts`);
    const seen = map && this.wanted ? `, ${map.model} map over it` : "";
    this.canvas.setAttribute("aria-label", `${model?.simulated ? "SIMULATED " : ""}image of ${at}${seen}`);
    this.drawScale();
  }

  tint(out, { width, height, factor, pixels, map }, scale) {
    const table = colours();
    const codes = Int32Array.from(map.value, (value, i) => (Number.isFinite(value) ? code(shareOf(scale, value), map.certainty[i] || 0) : 0));
    const rows = cells(height, factor, map.rows, map), columns = cells(width, factor, map.columns, map);
    const light = Int32Array.from({ length: 256 }, (_, grey) => lightnessStep(grey / 255));
    for (let y = 0, i = 0; y < height; y += 1) {
      for (let x = 0; x < width; x += 1, i += 1) {
        const cell = rows[y] < 0 || columns[x] < 0 ? 0 : codes[rows[y] * map.columns + columns[x]];
        out[i] = table[light[pixels[i]] + cell];
      }
    }
  }

  drawScale() {
    const map = this.map, shown = Boolean(map && this.wanted);
    show("scale", shown);
    if (!shown) return;
    const canvas = $("scale"), ratio = devicePixelRatio || 1;
    const [wide, high] = [canvas.clientWidth, canvas.clientHeight];
    if (!wide) return;
    Object.assign(canvas, { width: wide * ratio, height: high * ratio });
    const pen = canvas.getContext("2d"), scale = scaleOf(map, this.model?.scale_um), ink = getComputedStyle(document.body);
    const left = 12, right = wide - 76, bar = 22, table = colours();
    const strip = pen.createImageData(Math.round((right - left) * ratio), Math.round(bar * ratio));
    const out = new Uint32Array(strip.data.buffer), light = lightnessStep(BAR_LIGHTNESS);
    for (let y = 0, i = 0; y < strip.height; y += 1) {
      for (let x = 0; x < strip.width; x += 1, i += 1) {
        const value = scale.low + ((scale.high - scale.low) * x) / (strip.width - 1);
        out[i] = table[light + code(shareOf(scale, value), 1 - y / (strip.height - 1))];
      }
    }
    pen.putImageData(strip, left * ratio, 0);
    pen.scale(ratio, ratio);
    pen.fillStyle = ink.color;
    pen.font = `12px ${ink.fontFamily}`;
    pen.fillText("certain", right + 12, 9);
    pen.fillText("unsure", right + 12, bar);
    pen.textAlign = "center";
    const at = (value) => left + ((value - scale.low) / (scale.high - scale.low)) * (right - left);
    for (const value of ticks(scale.low, scale.high, Math.min(6, wide / 60))) {
      pen.fillRect(at(value) - 0.5, bar, 1, 4);
      pen.fillText(short(value) === "–" ? "" : String(value), at(value), bar + 17);
    }
    pen.fillText(scale.label + (scale.above ? ", and beyond" : ""), (left + right) / 2, bar + 34);
    canvas.setAttribute("aria-label", `Colours: ${scale.label} from ${short(scale.low)} to ${short(scale.high)}; grey where unsure`);
  }

  point(event) {
    const map = this.map, box = this.canvas.getBoundingClientRect();
    if (!map || !this.wanted) return show("probe", false);
    const { width, height, factor } = this.image;
    const zoom = Math.min(box.width / width, box.height / height);
    const x = (event.clientX - box.left - (box.width - width * zoom) / 2) / zoom;
    const y = (event.clientY - box.top - (box.height - height * zoom) / 2) / zoom;
    if (x < 0 || y < 0 || x >= width || y >= height) return show("probe", false);
    const row = cells(height, factor, map.rows, map)[Math.floor(y)], column = cells(width, factor, map.columns, map)[Math.floor(x)];
    const at = row * map.columns + column;
    const value = row < 0 || column < 0 ? NaN : map.value[at];
    const said = Number.isFinite(value) ? `${map.model} ${short(value)} ${map.unit}, certainty ${map.certainty[at].toFixed(2)}` : "no answer here";
    put("probe", said);
    show("probe", true);
  }

  veil(text) {
    put("veil", text);
    show("veil", Boolean(text));
    flag(this.canvas, "old", Boolean(text));
  }
}
