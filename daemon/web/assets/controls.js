// The buttons. Make safe is one press, acts when it is let go on the button itself, and is never disabled by a
// connection that is down: it tries. From the keyboard it is Esc twice, so that one Esc meant for something else is none.

import { command } from "./link.js";
import { $, flag, make, put, show } from "./words.js";

const TWICE_MS = 1000;
const PATIENCE_MS = { safe: 30000, snap: 45000 };
const TEXTS = { name: "Make safe", note: "light off, stage stopped, session ends" };

export class Controls {
  constructor(secret, changed) {
    this.secret = secret;
    this.changed = changed;
    this.busy = new Set();
    this.escapedMs = -Infinity;
    $("safe").addEventListener("click", () => this.makeSafe());
    $("pause").addEventListener("click", () => this.give($("pause").dataset.does ?? "pause"));
    $("snap").addEventListener("click", () => this.give("snap"));
    $("safe").addEventListener("keydown", (event) => event.repeat && event.preventDefault());
    document.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    if (event.key !== "Escape" || event.repeat || event.isComposing) return;
    const again = performance.now() - this.escapedMs < TWICE_MS;
    this.escapedMs = again ? -Infinity : performance.now();
    if (again) {
      this.prime(false);
      this.makeSafe();
    } else if (!$("safe").disabled) {
      this.prime(true);
      clearTimeout(this.unprime);
      this.unprime = setTimeout(() => this.prime(false), TWICE_MS);
    }
  }

  prime(on) {
    flag($("safe"), "primed", on || null);
    put("safe-note", on ? "Esc once more makes safe" : TEXTS.note);
  }

  async makeSafe() {
    const button = $("safe");
    if (button.disabled || this.busy.has("safe")) return;
    this.busy.add("safe");
    put("safe-name", "Making safe …");
    this.keep("");
    const { outcome, text } = await command(this.secret, "safe", $("reason").value, PATIENCE_MS.safe);
    this.busy.delete("safe");
    put("safe-name", TEXTS.name);
    if (outcome === "done") this.answer(text);
    else if (!this.over) this.keep(outcome === "refused" ? `Make safe was refused: ${text}` : `NOT CONFIRMED that the microscope is safe: ${text}. Look at the microscope and switch the light off by hand if need be; in a terminal: parfocal safe. The button can be pressed again.`);
    this.changed();
  }

  async give(name) {
    if (this.busy.size) return;
    this.busy.add(name);
    this.changed();
    const { outcome, text } = await command(this.secret, name, $("reason").value, PATIENCE_MS[name] ?? 10000);
    this.busy.delete(name);
    if (outcome === "done") {
      this.keep("");
      this.answer(text);
      if (name !== "snap") $("reason").value = "";
    } else this.keep(`${name}: ${text}`);
    this.changed();
  }

  answer(text) {
    put("answer", text);
    show("answer", true);
    clearTimeout(this.forget);
    this.forget = setTimeout(() => show("answer", false), 8000);
  }

  // A message that stays until the next command.
  keep(text) {
    for (const old of $("alerts").querySelectorAll("p[data-kept]")) old.remove();
    if (!text) return;
    const line = make("p", text, "danger");
    line.dataset.kept = "";
    $("alerts").prepend(line);
  }

  draw(model, contact, state) {
    const may = model.role !== "observe" && contact !== "no-token";
    const up = contact === "up" && Boolean(model.link?.up), paused = model.state?.name === "paused";
    this.over = Boolean(model.end) || state === "ended";
    const can = may && up && !this.over && this.busy.size === 0;
    const pause = $("pause");
    put(pause, this.busy.has("pause") ? "Pausing …" : this.busy.has("resume") ? "Resuming …" : paused ? "Resume" : "Pause");
    flag(pause, "does", paused ? "resume" : "pause");
    pause.disabled = !can || !["running", "paused"].includes(model.state?.name);
    $("snap").disabled = !can || !paused;
    put("snap", this.busy.has("snap") ? "Taking one …" : "Snap");
    $("reason").disabled = !may || this.over;
    const safe = $("safe");
    safe.disabled = !may || this.over;
    flag(safe, "done", (this.over && contact !== "no-token") || null);
    if (!this.busy.has("safe")) put("safe-name", this.over ? "Safe" : TEXTS.name);
    if (!safe.dataset.primed) put("safe-note", this.over ? "the session has ended" : may ? TEXTS.note : model.role === "observe" ? "this link may only look" : "not connected");
  }
}
