// Words and numbers: banner, state, tiles, the last decision, alerts, the summary, the facts.

import { $, ago, clock, fixed, flag, make, put, short, show } from "./words.js";

const DECISIONS = ["hold", "change", "finish", "refused"];
const NAMES = { hold: "hold", change: "move", finish: "finish", refused: "REFUSED" };

// How long without a frame is too long: three times what is usual, and at least five seconds.
export const patience = (model) => Math.max(5, 3 / (model.step?.fps || 1));

// What is going on, as far as this page knows: [state, its name, the reason, how live the numbers are].
export function situation(model, contact) {
  if (contact === "no-token") return ["lost", "not let in", "this link is not, or no longer, valid", "lost"];
  if (contact === "down") return model.end ? ["ended", "ended", model.end.outcome, "over"] : ["lost", "no contact", "with the page's server", "lost"];
  if (contact !== "up") return ["unknown", "connecting", "", "connecting"];
  if (model.end) return ["ended", "ended", model.end.outcome, "over"];
  if (!model.link?.up) return model.step ? ["lost", "no contact", "with the daemon", "lost"] : ["unknown", "no daemon", "waiting for one to run", "connecting"];
  const state = model.state?.name ?? "idle";
  if (state === "running" && model.step && model.age(model.step.at) > patience(model)) return ["stalled", "no frames", `for ${Math.round(model.age(model.step.at))} s`, "lost"];
  return [state, state, model.state?.reason ?? "", "live"];
}

export function head(model, contact) {
  const [state, name, reason, live] = situation(model, contact);
  flag(document.body, "live", live);
  flag($("state"), "state", state);
  put("state-name", name);
  put("state-reason", reason);
  show("simulated", model.simulated);
  show("shadow", Boolean(model.facts.shadow));
  const facts = model.facts;
  const said = facts.session ? [facts.session, facts.microscope === facts.driver ? facts.driver : `${facts.microscope} (${facts.driver})`, facts.policy?.name] : [];
  put("session", said.filter(Boolean).join("  ·  "));
  const defocus = model.belief ? `${fixed(model.belief.defocus_um, 2, true)} um  ` : "";
  put("key-moved", facts.shadow ? "would have moved" : "moved");
  document.title = `${model.simulated ? "SIMULATED " : ""}${name} ${live === "live" ? defocus : ""}· parfocal`;
  return [state, live];
}

export function alerts(model, contact, live) {
  const lines = [];
  if (contact === "no-token") lines.push("This link is not, or no longer, valid: every start of the page prints a new one. `parfocal web --link` prints it again.");
  else if (contact === "down" && !model.end) lines.push("This page has lost its server and keeps trying. Everything below is old. Make safe still tries when pressed; in a terminal it is `parfocal safe`.");
  else if (contact === "up" && !model.link?.up && model.step && !model.end) lines.push(`The daemon does not answer; everything below is old. ${model.link?.text ?? ""}`);
  else if (live === "lost") lines.push("The daemon answers, but no frame comes. What is below is the last one.");
  const refused = Object.values(model.health?.refused ?? {}).reduce((a, b) => a + b, 0);
  if (model.health?.lost_events) lines.push(`${model.health.lost_events} events were lost on the way: this picture has gaps.`);
  const box = $("alerts");
  const kept = [...box.querySelectorAll("p[data-kept]")];
  const shown = [...box.querySelectorAll("p:not([data-kept])")];
  if (shown.map((one) => one.textContent).join() !== lines.join()) box.replaceChildren(...kept, ...lines.map((text) => make("p", text)));
  return refused;
}

function tile(id, value, note, { good = false, old = false, unit = null } = {}) {
  put(id, value);
  flag($(id), "unit", unit);
  put(`${id}-note`, note);
  const element = $(id).parentElement;
  flag(element, "good", good || null);
  flag(element, "old", old || null);
}

// Whether a belief knows the side of the focus; as `side_known` in daemon/decisions.py.
function sideKnown({ positive, defocus_um: defocus, sd_um: sd }) {
  return !(positive > 0.1 && positive < 0.9 && Math.abs(defocus) > 2 * (sd ?? Infinity));
}

export function tiles(model) {
  const { step, belief, quality } = model;
  const late = patience(model), side = belief && sideKnown(belief);
  if (belief) {
    const old = model.age(belief.at) > late;
    const focus = belief.focused === 1 ? "in focus" : side ? "not in focus yet" : "side not known";
    const value = side ? fixed(belief.defocus_um, 2, true) : `±${fixed(Math.abs(belief.defocus_um), 2)}`;
    tile("defocus", `${value} ± ${fixed(belief.sd_um, 2)}`, old ? `as of ${ago(model.age(belief.at))}` : focus, { good: belief.focused === 1 && !old, old, unit: "um" });
  } else tile("defocus", "–", model.step ? "nothing believed yet" : "");
  if (step) {
    const age = model.age(step.at), old = age > late;
    const aged = (text) => (old ? ago(age) : text);
    tile("z", fixed(step.z_um, 2), aged(!side || belief.focus_z_um === null ? "" : `focus at ${fixed(belief.focus_z_um, 2)}`), { old, unit: "um" });
    tile("fps", short(step.fps), aged(`${step.counters.scored} scored of ${step.counters.frames}`), { old, unit: "/s" });
    const { spent, budget, left, unit } = step.dose;
    put("dose-name", budget === null ? "dose" : "dose left");
    tile("dose", short(budget === null ? spent : left), budget === null ? `${unit}, no budget set` : `of ${short(budget)} ${unit}`);
    show("dose-left", budget !== null);
    if (budget) $("dose-left").value = left / budget;
    const went = model.facts.shadow ? "nothing was commanded" : `${short(step.travel_um)} um in all`;
    put("actions-name", model.facts.shadow ? "would have moved" : "moves");
    tile("actions", String(step.counters.actions), `${step.counters.refused ? `${step.counters.refused} refused, ` : ""}${went}`);
  } else for (const id of ["z", "fps", "dose", "actions"]) tile(id, "–", "");
  show("quality-tile", Boolean(quality));
  if (quality) {
    const old = model.age(quality.at) > late;
    tile("quality", quality.abstained ? "–" : fixed(quality.value, 2), old ? `as of ${ago(model.age(quality.at))}` : quality.abstained ? quality.reason : `± ${fixed(quality.sd, 2)}, of 1`, { old });
  }
}

export function decided(model) {
  const last = [...model.entries.values()].findLast((one) => DECISIONS.includes(one.kind));
  const box = document.querySelector(".deciding");
  flag(box, "kind", last?.kind ?? null);
  flag($("decided-kind"), "kind", last?.kind ?? null);
  put("decided-kind", last ? (last.what.startsWith("would") ? "would" : NAMES[last.kind]) : "");
  if (!last) return put("decided", "Nothing decided yet.");
  const times = last.count > 1 ? ` (${last.count} times, on frames up to ${last.frame})` : ` (on frame ${last.frame})`;
  const what = last.kind === "hold" || last.kind === "refused" ? "" : `${last.what}: `;
  return put("decided", `${what}${last.reason}${last.frame === null ? "" : times}`);
}

export function veil(model, live) {
  if (!model.step) return "";
  if (live === "over") return `The last image, ${ago(model.age(model.step.at))}`;
  if (live === "lost") return `NOT LIVE: the last image, ${ago(model.age(model.step.at))}`;
  if (model.state?.name === "paused") return `Paused: the last image, ${ago(model.age(model.step.at))}`;
  return "";
}

function list(id, rows) {
  const box = $(id), names = rows.map(([name]) => name).join();
  if (box.dataset.names !== names) {
    box.replaceChildren(...rows.flatMap(([name]) => [make("dt", name), make("dd")]));
    box.dataset.names = names;
  }
  const cells = box.querySelectorAll("dd");
  rows.forEach(([, value], i) => put(cells[i], String(value)));
}

export function over(model) {
  const end = model.end;
  show("over", Boolean(end));
  if (!end) return;
  const { final = {}, latency_ms: latency = {}, truth, ...all } = end.summary;
  const rows = [["outcome", end.outcome], ["ended", `${new Date(end.sent_s * 1000).toLocaleTimeString("en-GB")}, ${ago(model.age(end.at))}`]];
  if (all.error) rows.push(["because", all.error]);
  rows.push(["frames", `${all.frames}, of these ${all.scored} scored, ${all.stale} stale, ${all.dropped} dropped`]);
  rows.push([model.facts.shadow ? "would have moved" : "moves", `${all.actions}${all.refused ? `, ${all.refused} refused` : ""}, ${short(all.travel_um)} um travelled`]);
  if (all.frames_to_focus) rows.push(["in focus after", `${all.frames_to_focus} frames`]);
  const known = Number.isFinite(final.defocus_um);
  rows.push(["defocus at the end", known ? `${fixed(final.defocus_um, 2, true)} ± ${fixed(final.defocus_sd_um, 2)} um as believed` : "not known"]);
  if (Number.isFinite(truth?.defocus_um)) rows.push(["truth (simulated)", `${fixed(truth.defocus_um, 2, true)} um`]);
  rows.push(["dose", `${short(all.dose)} ${model.step?.dose.unit ?? ""}`], ["loop latency", `p50 ${short(latency.p50)} ms, p99 ${short(latency.p99)} ms`]);
  rows.push(["record", all.session], ["report", `parfocal report ${all.session}`]);
  list("summary", rows);
}

function bounds(limits) {
  return Object.entries(limits ?? {}).map(([name, bound]) => {
    const more = Object.entries(bound).filter(([key]) => key !== "lower" && key !== "upper").map(([key, value]) => `, ${key} ${short(value)}`);
    return `${name} ${short(bound.lower)} to ${short(bound.upper)}${more.join("")}`;
  }).join("; ");
}

export function facts(model, contact, refused) {
  const { facts: all, health, people, link, step } = model;
  const options = Object.entries(all.policy?.options ?? {}).map(([name, value]) => `${name} ${JSON.stringify(value)}`).join(", ");
  const rows = [
    ["started", all.started_utc ? new Date(all.started_utc).toLocaleString("en-GB") : "–"],
    ["running for", step && all.clock_s ? clock(step.t_s - all.clock_s) : "–"],
    ["policy", `${all.policy?.name ?? "–"}${options ? ` (${options})` : ""}`],
    ["models", (all.models ?? []).join(", ") || "–"],
    ["limits", bounds(all.limits) || "–"],
    ["settings", Object.entries(step?.settings ?? {}).map(([name, value]) => `${name} ${short(value)}`).join(", ") || "–"],
    ["record", all.folder ?? "–"],
    ["loop latency", health ? `p50 ${short(health.latency_ms.p50)} ms, p99 ${short(health.latency_ms.p99)} ms` : "–"],
    ["frames", step ? Object.entries(step.counters).filter(([name]) => !["actions", "refused"].includes(name)).map(([name, value]) => `${value} ${name === "frames" ? "taken" : name}`).join(", ") : "–"],
    ["open pages", people ? `${people.operate + people.observe}, of these ${people.observe} may only look` : "–"],
    ["this page", contact === "up" ? (model.role === "operate" ? "may operate" : "may only look") : "not connected"],
    ["daemon", link?.up ? `${link.address}, parfocal ${model.hello?.parfocal ?? "?"}` : link?.text || "not connected"],
    ["turned away", refused ? `${refused} messages: ${Object.entries(health.refused).map(([why, count]) => `${count} ${why}`).join(", ")}` : "nobody"],
  ];
  list("facts", rows);
}
