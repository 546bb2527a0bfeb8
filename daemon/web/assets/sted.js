// Runs that look for settings: the settings, the objectives of the trials, and the front of two of them.

import { plane } from "./charts.js";
import { $, make, put, short, show } from "./words.js";

// Whether less of it is better; everything else is better the more there is of it.
const lower = (name) => /^bleach|_nm$|_us$|_ms$/.test(name);
const PREFERRED = ["bleach", "resolution_nm", "signal_ratio", "quality", "pixel_us"];

export class StedView {
  constructor() {
    for (const id of ["pareto-x", "pareto-y"]) $(id).addEventListener("change", () => this.draw(this.model));
    new ResizeObserver(() => this.draw(this.model)).observe($("pareto"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw(this.model));
    this.names = "";
  }

  draw(model) {
    this.model = model;
    if (!model) return;
    const trials = [...model.trials.values()];
    const searching = trials.length > 0 || String(model.facts.policy?.name ?? "").startsWith("sted.");
    show("sted", searching);
    if (!searching) return;
    const last = trials[trials.length - 1];
    this.settings(model, last);
    fill("objectives", Object.entries(last?.objectives ?? {}).map(([name, value]) => [name, short(value), /^rate_/.test(name) ? "" : lower(name) ? "smaller" : "larger"]));
    this.front(trials);
  }

  settings(model, last) {
    const now = model.step?.settings ?? {}, found = model.recommended ?? {};
    const names = [...new Set([...Object.keys(model.facts.parameters ?? {}), ...Object.keys(last?.settings ?? {})])];
    fill("settings", names.map((name) => {
      const unit = model.facts.parameters?.[name]?.unit;
      return [unit ? `${name}, ${unit}` : name, short(now[name]), short(last?.settings[name]), short(found[name])];
    }));
  }

  front(trials) {
    const names = [...new Set(trials.flatMap((one) => Object.keys(one.objectives)))];
    const order = [...PREFERRED.filter((name) => names.includes(name)), ...names.filter((name) => !PREFERRED.includes(name))];
    if (order.join() !== this.names) this.choose(order);
    const [x, y] = [$("pareto-x").value, $("pareto-y").value];
    const points = trials
      .filter((one) => Number.isFinite(one.objectives[x]) && Number.isFinite(one.objectives[y]))
      .map((one) => ({ x: one.objectives[x], y: one.objectives[y], last: one === trials[trials.length - 1] }));
    if (!points.length) return put("pareto-note", `${trials.length} trials, none with both objectives yet.`);
    const front = plane("pareto", points, x, y, lower);
    const sure = Number.isFinite(this.model.recommended?.utility) ? ` Recommended: utility ${short(this.model.recommended.utility)}${Number.isFinite(this.model.recommended.utility_sd) ? ` ± ${short(this.model.recommended.utility_sd)}` : ""}.` : "";
    return put("pareto-note", `${points.length} trials; ${front} that no other beats in these two, joined. The last one is ringed.${sure}`);
  }

  choose(order) {
    this.names = order.join();
    ["pareto-x", "pareto-y"].forEach((id, i) => {
      const before = $(id).value;
      $(id).replaceChildren(...order.map((name) => new Option(name, name)));
      $(id).value = order.includes(before) ? before : order[Math.min(i, order.length - 1)] ?? "";
    });
  }
}

function fill(id, rows) {
  const body = $(id).tBodies[0];
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((row, i) => {
    const line = body.rows[i] ?? body.insertRow();
    row.forEach((text, j) => {
      const cell = line.cells[j] ?? line.appendChild(make(j ? "td" : "th"));
      if (!j) cell.scope = "row";
      cell.className = j && !["smaller", "larger", ""].includes(text) ? "n" : "";
      put(cell, text);
    });
  });
}
