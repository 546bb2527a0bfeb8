// Traces against time, and the plane of two objectives; drawn on canvases in the page's own colours.

import { MOVED, REFUSED, ROW } from "./model.js";
import { $, clock, fixed, put, short, show, ticks, timeTicks } from "./words.js";

const LEFT = 52, RIGHT = 10, TOP = 8, BOTTOM = 22;
const P50 = 0.6745, P90 = 1.6449;

function canvasOf(id) {
  const canvas = $(id), ratio = devicePixelRatio || 1;
  const [wide, high] = [canvas.clientWidth, canvas.clientHeight];
  const size = [Math.round(wide * ratio), Math.round(high * ratio)];
  if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, wide, high);
  return { canvas, pen, wide, high };
}

function palette() {
  const style = getComputedStyle(document.documentElement);
  const names = ["ink", "soft", "line", "stage", "focus", "band50", "band90", "alert", "paper", "good", "accent"];
  return { ...Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()])), font: getComputedStyle(document.body).fontFamily };
}

// Low and high of numbers, with room above and below, and never a range of nothing.
function range(values, least) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value !== null && Number.isFinite(value)) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  if (low > high) return [-1, 1];
  const span = Math.max(high - low, least);
  const middle = (low + high) / 2;
  return [middle - 0.56 * span, middle + 0.56 * span];
}

// A range in which most of the values lie: what is far off, on the way to the focus, leaves the frame, and is marked there.
function most(values, least) {
  const known = values.filter((value) => value !== null && Number.isFinite(value)).sort((a, b) => a - b);
  if (known.length < 20) return range(known, least);
  const [low, middle, high] = [0.1, 0.5, 0.9].map((part) => known[Math.round(part * (known.length - 1))]);
  const room = Math.max(4 * (high - low), least);
  return range(known.filter((value) => Math.abs(value - middle) <= room), least);
}

function median(values) {
  const known = values.filter((value) => value !== null).sort((a, b) => a - b);
  return known.length ? known[known.length >> 1] : 0;
}

export class Traces {
  constructor() {
    this.seconds = 300;
    this.pointer = null;
    for (const input of document.querySelectorAll("input[name=window]")) {
      input.addEventListener("change", () => {
        this.seconds = Number(input.value);
        this.draw();
      });
    }
    for (const id of ["chart-z", "chart-defocus", "chart-quality"]) {
      $(id).addEventListener("pointermove", (event) => this.point(event.offsetX));
      $(id).addEventListener("pointerleave", () => this.point(null));
      new ResizeObserver(() => this.draw()).observe($(id));
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  point(x) {
    this.pointer = x;
    this.draw();
  }

  draw(model = this.model) {
    if (!model) return;
    this.model = model;
    const all = model.rows, last = all.length ? all[all.length - 1][ROW.t] : 0;
    const start = model.facts.clock_s ?? (all.length ? all[0][ROW.t] : 0);
    const from = Math.max(last - this.seconds, all.length ? all[0][ROW.t] : 0);
    const rows = all.filter((row) => row[ROW.t] >= from);
    const until = Math.max(last, from + 10);
    const axes = { from, until, start, colours: palette(), gap: 4 * typical(rows) + 1 };
    this.z(rows, axes);
    const believed = rows.some((row) => row[ROW.defocus] !== null);
    show("figure-defocus", believed);
    if (believed) this.defocus(rows, axes);
    const scored = rows.some((row) => row[ROW.quality] !== null);
    show("figure-quality", scored);
    if (scored) this.quality(rows, axes);
    show("key-truth", rows.some((row) => row[ROW.truth] !== null && row[ROW.truth] !== undefined));
    this.say(rows, axes);
  }

  z(rows, axes) {
    const sds = median(rows.map((row) => row[ROW.sd]));
    const lines = rows.flatMap((row) => [row[ROW.z], row[ROW.focus], row[ROW.truth] ?? null]);
    const edges = rows.flatMap((row) => (row[ROW.focus] === null || row[ROW.sd] > 2 * sds ? [] : [row[ROW.focus] - P90 * row[ROW.sd], row[ROW.focus] + P90 * row[ROW.sd]]));
    const plot = frame("chart-z", axes, range([...lines, ...edges], 0.5), rows);
    band(plot, rows, ROW.focus);
    line(plot, rows, (row) => row[ROW.truth] ?? null, axes.colours.ink, 1.2, [5, 4]);
    line(plot, rows, (row) => row[ROW.focus], axes.colours.focus, 2);
    line(plot, rows, (row) => row[ROW.z], axes.colours.stage, 1.8, [], true);
    for (const row of rows) {
      if (row[ROW.mark] && row[ROW.z] !== null) mark(plot, row);
    }
    finish(plot, this.pointer);
    const latest = rows.findLast((row) => row[ROW.z] !== null);
    const focus = rows.findLast((row) => row[ROW.focus] !== null);
    describe("chart-z", latest ? `Stage at ${fixed(latest[ROW.z], 2)} um${focus ? `, focus believed at ${fixed(focus[ROW.focus], 2)} um, give or take ${fixed(focus[ROW.sd], 2)} um` : ""}` : "No trace yet");
  }

  defocus(rows, axes) {
    const sds = median(rows.map((row) => row[ROW.sd]));
    const edges = rows.flatMap((row) => (row[ROW.defocus] === null || row[ROW.sd] > 2 * sds ? [] : [row[ROW.defocus] - P90 * row[ROW.sd], row[ROW.defocus] + P90 * row[ROW.sd]]));
    const plot = frame("chart-defocus", axes, most([0, ...rows.map((row) => row[ROW.defocus]), ...edges], 0.5), rows);
    band(plot, rows, ROW.defocus);
    outside(plot, rows, (row) => row[ROW.defocus]);
    zero(plot);
    line(plot, rows, (row) => row[ROW.defocus], axes.colours.focus, 2);
    finish(plot, this.pointer);
    const latest = rows.findLast((row) => row[ROW.defocus] !== null);
    describe("chart-defocus", latest ? `Defocus ${fixed(latest[ROW.defocus], 2, true)} um, give or take ${fixed(latest[ROW.sd], 2)} um` : "No trace yet");
  }

  quality(rows, axes) {
    const plot = frame("chart-quality", axes, [-0.03, 1.03], rows);
    line(plot, rows, (row) => row[ROW.quality], axes.colours.focus, 1.8);
    finish(plot, this.pointer);
    const latest = rows.findLast((row) => row[ROW.quality] !== null);
    describe("chart-quality", `Quality ${fixed(latest[ROW.quality], 2)}`);
  }

  say(rows, axes) {
    if (this.pointer === null || !rows.length) return put("cursor", "");
    const wide = $("chart-z").clientWidth;
    const at = axes.from + ((this.pointer - LEFT) / (wide - LEFT - RIGHT)) * (axes.until - axes.from);
    const row = rows.reduce((a, b) => (Math.abs(b[ROW.t] - at) < Math.abs(a[ROW.t] - at) ? b : a));
    const parts = [`at ${clock(row[ROW.t] - axes.start)}`, `z ${fixed(row[ROW.z], 2)} um`];
    if (row[ROW.defocus] !== null) parts.push(`defocus ${fixed(row[ROW.defocus], 2, true)} ± ${fixed(row[ROW.sd], 2)} um`);
    if (row[ROW.quality] !== null) parts.push(`quality ${fixed(row[ROW.quality], 2)}`);
    if (row[ROW.mark]) parts.push(row[ROW.mark] === REFUSED ? "refused" : $("key-moved").textContent);
    put("cursor", parts.join(", "));
  }
}

function typical(rows) {
  const steps = [];
  for (let i = 1; i < rows.length; i += 1) steps.push(rows[i][ROW.t] - rows[i - 1][ROW.t]);
  return median(steps);
}

function describe(id, text) {
  const canvas = $(id);
  if (canvas.getAttribute("aria-label") !== text) canvas.setAttribute("aria-label", text);
}

function frame(id, axes, [low, high], rows) {
  const { canvas, pen, wide, high: tall } = canvasOf(id);
  const x = (t) => LEFT + ((t - axes.from) / (axes.until - axes.from)) * (wide - LEFT - RIGHT);
  const y = (v) => TOP + ((high - v) / (high - low)) * (tall - TOP - BOTTOM);
  const { colours } = axes;
  pen.font = `12px ${colours.font}`;
  pen.textBaseline = "middle";
  pen.textAlign = "right";
  pen.strokeStyle = colours.line;
  pen.fillStyle = colours.soft;
  pen.lineWidth = 1;
  const values = ticks(low, high, Math.max(2, tall / 44));
  const digits = values.length > 1 ? Math.max(0, Math.ceil(-Math.log10(values[1] - values[0]) - 1e-9)) : 1;
  for (const value of values) {
    pen.beginPath();
    pen.moveTo(LEFT, Math.round(y(value)) + 0.5);
    pen.lineTo(wide - RIGHT, Math.round(y(value)) + 0.5);
    pen.stroke();
    pen.fillText(fixed(value, Math.min(digits, 4)), LEFT - 7, y(value));
  }
  pen.textAlign = "center";
  for (const at of timeTicks(axes.from - axes.start, axes.until - axes.start, wide / 90)) {
    pen.fillText(clock(at), x(at + axes.start), tall - BOTTOM / 2 + 2);
  }
  pen.save();
  pen.beginPath();
  pen.rect(LEFT, 0, wide - LEFT - RIGHT, tall - BOTTOM);
  pen.clip();
  return { canvas, pen, wide, tall, x, y, axes, rows };
}

function finish(plot, pointer) {
  const { pen, tall, wide, axes } = plot;
  pen.restore();
  if (pointer !== null && pointer > LEFT && pointer < wide - RIGHT) {
    pen.strokeStyle = axes.colours.soft;
    pen.beginPath();
    pen.moveTo(Math.round(pointer) + 0.5, TOP);
    pen.lineTo(Math.round(pointer) + 0.5, tall - BOTTOM);
    pen.stroke();
  }
}

function zero(plot) {
  const { pen, x, y, axes } = plot;
  pen.strokeStyle = axes.colours.soft;
  pen.lineWidth = 1;
  pen.beginPath();
  pen.moveTo(x(axes.from), Math.round(y(0)) + 0.5);
  pen.lineTo(x(axes.until), Math.round(y(0)) + 0.5);
  pen.stroke();
}

// Stretches of rows where a number is known and no more time passes than usual.
function* stretches(rows, known, gap) {
  let part = [];
  for (const row of rows) {
    if (!known(row)) continue;
    if (part.length && row[ROW.t] - part[part.length - 1][ROW.t] > gap) {
      yield part;
      part = [];
    }
    part.push(row);
  }
  if (part.length) yield part;
}

function line({ pen, x, y, axes }, rows, of, colour, width, dashes = [], stairs = false) {
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.lineJoin = "round";
  pen.setLineDash(dashes);
  for (const part of stretches(rows, (row) => of(row) !== null, axes.gap)) {
    pen.beginPath();
    part.forEach((row, i) => {
      if (!i) pen.moveTo(x(row[ROW.t]), y(of(row)));
      else if (stairs) pen.lineTo(x(row[ROW.t]), y(of(part[i - 1])));
      pen.lineTo(x(row[ROW.t]), y(of(row)));
    });
    if (part.length === 1) pen.lineTo(x(part[0][ROW.t]) + 1.5, y(of(part[0])));
    pen.stroke();
  }
  pen.setLineDash([]);
}

function band({ pen, x, y, axes }, rows, column) {
  for (const [sigmas, colour] of [[P90, axes.colours.band90], [P50, axes.colours.band50]]) {
    pen.fillStyle = colour;
    for (const part of stretches(rows, (row) => row[column] !== null && row[ROW.sd] !== null, axes.gap)) {
      pen.beginPath();
      for (const row of part) pen.lineTo(x(row[ROW.t]), y(row[column] + sigmas * row[ROW.sd]));
      for (const row of part.toReversed()) pen.lineTo(x(row[ROW.t]), y(row[column] - sigmas * row[ROW.sd]));
      pen.fill();
    }
  }
}

// Small triangles where a value lies beyond the frame.
function outside({ pen, x, y, tall, axes }, rows, of) {
  pen.fillStyle = axes.colours.focus;
  for (const row of rows) {
    if (of(row) === null) continue;
    const at = y(of(row)), side = at < TOP - 1 ? 1 : at > tall - BOTTOM + 1 ? -1 : 0;
    if (!side) continue;
    const edge = side > 0 ? 1 : tall - BOTTOM - 1;
    pen.beginPath();
    for (const [dx, dy] of [[0, 0], [-4, 7], [4, 7]]) pen.lineTo(x(row[ROW.t]) + dx, edge + side * dy);
    pen.fill();
  }
}

function mark({ pen, x, y, axes }, row) {
  const [at, z] = [x(row[ROW.t]), y(row[ROW.z])];
  pen.beginPath();
  if (row[ROW.mark] === MOVED) {
    pen.arc(at, z, 3.4, 0, 2 * Math.PI);
    pen.fillStyle = axes.colours.paper;
    pen.fill();
    pen.strokeStyle = axes.colours.stage;
    pen.lineWidth = 1.8;
  } else {
    for (const side of [-1, 1]) {
      pen.moveTo(at - 4.5, z - 4.5 * side);
      pen.lineTo(at + 4.5, z + 4.5 * side);
    }
    pen.strokeStyle = axes.colours.alert;
    pen.lineWidth = 2.4;
  }
  pen.stroke();
}

// Points of two objectives; those that no other one beats in both are filled and joined.
export function plane(id, points, xName, yName, lower) {
  const { canvas, pen, wide, high: tall } = canvasOf(id), colours = palette();
  const bottom = BOTTOM + 20;
  const [xl, xh] = range(points.map((one) => one.x), 1e-9), [yl, yh] = range(points.map((one) => one.y), 1e-9);
  const x = (v) => LEFT + ((v - xl) / (xh - xl)) * (wide - LEFT - RIGHT), y = (v) => TOP + ((yh - v) / (yh - yl)) * (tall - TOP - bottom);
  Object.assign(pen, { font: `12px ${colours.font}`, strokeStyle: colours.line, fillStyle: colours.soft, lineWidth: 1, textBaseline: "middle", textAlign: "right" });
  for (const value of ticks(yl, yh, 6)) {
    pen.strokeRect(LEFT, Math.round(y(value)) + 0.5, wide - LEFT - RIGHT, 0);
    pen.fillText(short(value), LEFT - 7, y(value));
  }
  pen.textAlign = "center";
  for (const value of ticks(xl, xh, wide / 90)) pen.fillText(short(value), x(value), tall - bottom + 11);
  pen.fillText(`${xName} (${lower(xName) ? "smaller" : "larger"} is better)`, (LEFT + wide - RIGHT) / 2, tall - 9);
  const sign = (name) => (lower(name) ? 1 : -1);
  const [sx, sy] = [sign(xName), sign(yName)];
  const beats = (a, b) => sx * a.x <= sx * b.x && sy * a.y <= sy * b.y && (a.x !== b.x || a.y !== b.y);
  const front = points.filter((one) => !points.some((other) => beats(other, one))).sort((a, b) => a.x - b.x);
  pen.strokeStyle = colours.focus;
  pen.lineWidth = 1.6;
  pen.beginPath();
  for (const one of front) pen.lineTo(x(one.x), y(one.y));
  pen.stroke();
  for (const one of points) {
    pen.beginPath();
    pen.arc(x(one.x), y(one.y), one.last ? 6.5 : 4, 0, 2 * Math.PI);
    pen.fillStyle = front.includes(one) ? colours.focus : colours.paper;
    pen.strokeStyle = one.last ? colours.alert : front.includes(one) ? colours.focus : colours.stage;
    pen.lineWidth = one.last ? 2.6 : 1.6;
    pen.fill();
    pen.stroke();
  }
  canvas.setAttribute("aria-label", `${points.length} trials by ${xName} and ${yName}; ${front.length} of them on the front of these two`);
  return front.length;
}
