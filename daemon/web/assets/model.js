// What this page knows: the server's picture, brought up to date by every message, and how old each part of it is.

const KEPT_ROWS = 9000;

export class Model {
  constructor() {
    this.clear();
    this.now = 0;
    this.nowMs = 0;
  }

  clear() {
    Object.assign(this, {
      hello: null, state: null, step: null, belief: null, quality: null, health: null, end: null, link: null,
      people: null, scale_um: null, rows: [], entries: new Map(), trials: new Map(), recommended: {}, role: this.role ?? "",
    });
  }

  apply(text) {
    const { now, reset, rows, entries, trials, ...values } = JSON.parse(text);
    if (reset) this.clear();
    Object.assign(this, values);
    if (rows) {
      this.rows.push(...rows);
      if (this.rows.length > KEPT_ROWS) this.rows.splice(0, this.rows.length - KEPT_ROWS);
    }
    for (const one of entries ?? []) this.entries.set(one.id, one);
    while (this.entries.size > 400) this.entries.delete(this.entries.keys().next().value);
    for (const one of trials ?? []) this.trials.set(one.id, one);
    this.now = now;
    this.nowMs = performance.now();
  }

  // Seconds since `at`, a time on the server's clock of ages.
  age(at) {
    return at === null || at === undefined ? Infinity : Math.max(0, this.now - at + (performance.now() - this.nowMs) / 1000);
  }

  get facts() {
    return this.hello?.facts ?? {};
  }

  get simulated() {
    return Boolean(this.facts.simulated || this.step?.simulated);
  }
}

export const ROW = { t: 0, z: 1, defocus: 2, sd: 3, focus: 4, quality: 5, mark: 6, truth: 7 };
export const MOVED = 1;
export const REFUSED = 2;
