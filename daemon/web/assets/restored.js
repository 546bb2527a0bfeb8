// The restored preview: while its box is ticked a computed image stands in place of the live one, in a frame and under
// a label of its own, so that nobody takes it for data. What was refused stays the frame as it is, and says why.

import { COMPUTED, SIMULATED, stamp } from "./stamp.js";
import { $, ago, fixed, flag, put, short, show } from "./words.js";

const NAMES = { restored: "RESTORED: COMPUTED, NOT DATA", in_focus: "IN FOCUS", refused: "NOT RESTORED", off: "OFF", blind: "NO IMAGE", waiting: "RESTORED PREVIEW" };
const OLD_S = 5;

export class RestoredView {
  constructor() {
    this.canvas = $("restored");
    this.wanted = false;
    this.image = null;
    this.painted = null;
    $("show-restored").addEventListener("change", (event) => {
      this.wanted = event.target.checked;
      this.draw(this.model);
    });
  }

  take(image) {
    this.image = image;
  }

  clear() {
    this.image = this.painted = null;
  }

  draw(model) {
    this.model = model;
    const image = this.image, on = (model?.facts.preview?.restored ?? "off") !== "off";
    const offered = on || image?.verdict === "off";
    const shown = this.wanted && offered, verdict = this.verdict(on);
    const computed = shown && verdict === "restored";
    show("restored-switch", offered);
    show("restored-label", shown);
    show("restored", computed);
    show("frame", !computed);
    flag($("framed"), "computed", computed || null);
    flag($("restored-label"), "verdict", verdict);
    put("restored-name", NAMES[verdict] ?? verdict);
    put("restored-why", this.why(verdict, model));
    if (!computed) return;
    show("probe", false);
    if (this.painted !== image) this.paint(image);
  }

  verdict(on) {
    const { verdict, width } = this.image ?? { verdict: "off" };
    if (verdict === "off") return on ? "waiting" : "off";
    return verdict === "restored" && !width ? "blind" : verdict;
  }

  why(verdict, model) {
    const image = this.image;
    if (verdict === "blind") return "No images are sent: service.preview_px is 0.";
    if (verdict === "waiting") return "The live image is shown; the first restored one is being computed.";
    if (verdict === "off") return `The live image is shown. ${image?.reason ?? ""}`;
    const age = model.age(image.at), every = model.facts.preview?.every_s ?? 1;
    const of = `frame ${image.index}${age > Math.max(OLD_S, 3 * every) ? `, ${ago(age)}` : ""}`;
    if (verdict !== "restored") return `The live image is shown as it is. ${of[0].toUpperCase()}${of.slice(1)}: ${image.reason}`;
    const squares = image.refused?.cells.some(Boolean) ? `; ${image.reason}: hatched, shown as they are` : image.reason ? `; ${image.reason}` : "";
    const off = image.defocus_um === null ? "" : `, ${fixed(Math.abs(image.defocus_um), 2)} ± ${fixed(image.defocus_sd_um, 2)} um out of focus`;
    return `${of}${off}; method ${image.method}${squares}; grey ${short(image.low)} to ${short(image.high)}`;
  }

  paint(image) {
    this.painted = image;
    const { width, height } = image;
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const pen = this.canvas.getContext("2d"), data = pen.createImageData(width, height);
    const out = new Uint32Array(data.data.buffer);
    for (let i = 0; i < out.length; i += 1) out[i] = 0xff000000 | (image.pixels[i] * 0x010101);
    pen.putImageData(data, 0, 0);
    if (image.refused) this.hatch(pen, image);
    stamp(pen, "COMPUTED", COMPUTED);
    if (image.simulated) stamp(pen, "SIMULATED", SIMULATED);
    this.canvas.setAttribute("aria-label", `${image.simulated ? "SIMULATED " : ""}restored image of frame ${image.index}, computed by ${image.method}, no data`);
  }

  hatch(pen, { factor, refused: { rows, columns, cell_px: cell, cells } }) {
    const side = cell / factor;
    pen.fillStyle = this.stripes ??= stripes(pen);
    for (let i = 0; i < rows * columns; i += 1) {
      if (cells[i]) pen.fillRect((i % columns) * side, Math.floor(i / columns) * side, side, side);
    }
  }
}

// Light and dark lines side by side: seen on any image.
function stripes(pen) {
  const size = 8, tile = Object.assign(document.createElement("canvas"), { width: size, height: size });
  const draw = tile.getContext("2d");
  draw.lineWidth = 1.4;
  for (const [colour, off] of [["#14181d", 0], ["#ffb000", 1.4]]) {
    draw.strokeStyle = colour;
    draw.beginPath();
    for (const at of [-size, 0, size]) {
      draw.moveTo(at + off, size);
      draw.lineTo(at + size + off, 0);
    }
    draw.stroke();
  }
  return pen.createPattern(tile, "repeat");
}
