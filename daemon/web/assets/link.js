// The connection: one stream of changes that comes back by itself, and one door for commands. The token travels in a
// message and in a header, never in a cookie or an address.

const KEPT = "parfocal-token";
const SILENT_MS = 6000; // the server says at least every two seconds that it is there
const AGAIN_MS = [250, 500, 1000, 2000];
export const NO_TOKEN = 4401;

export function token() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem(KEPT, given);
    history.replaceState(null, "", location.pathname); // neither into the history nor over a shoulder
  }
  return sessionStorage.getItem(KEPT) ?? "";
}

export class Stream {
  // `heard(message)` gets what arrives, a string or an ArrayBuffer; `changed(state, why)` "up", "down" or "no-token".
  constructor(secret, heard, changed) {
    this.secret = secret;
    this.heard = heard;
    this.changed = changed;
    this.attempt = 0;
    this.lastMs = 0;
    this.watch = setInterval(() => this.look(), 500);
    window.addEventListener("online", () => this.hurry());
    document.addEventListener("visibilitychange", () => this.hurry());
    this.open();
  }

  open() {
    clearTimeout(this.later);
    const socket = new WebSocket(`ws://${location.host}/stream`);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.lastMs = performance.now();
    socket.onopen = () => socket.send(this.secret);
    socket.onmessage = ({ data }) => {
      if (socket !== this.socket) return;
      this.lastMs = performance.now();
      if (this.attempt !== -1) {
        this.attempt = -1;
        this.changed("up", "");
      }
      this.heard(data);
    };
    socket.onclose = ({ code, reason }) => {
      if (socket === this.socket) this.lost(code, reason);
    };
  }

  lost(code, reason) {
    this.socket = null;
    if (code === NO_TOKEN) {
      clearInterval(this.watch);
      this.changed("no-token", reason);
      return;
    }
    this.attempt = Math.max(this.attempt, 0);
    this.changed("down", reason);
    this.later = setTimeout(() => this.open(), AGAIN_MS[Math.min(this.attempt, AGAIN_MS.length - 1)]);
    this.attempt += 1;
  }

  look() {
    const socket = this.socket;
    if (socket && performance.now() - this.lastMs > SILENT_MS) {
      this.lost(0, "nothing was heard");
      socket.close();
    }
  }

  hurry() {
    if (!this.socket && !document.hidden) this.open();
  }
}

export async function command(secret, name, reason, patienceMs) {
  // Returns {outcome, text}; outcome is done, refused, no_answer or unreachable.
  try {
    const answer = await fetch("/command", {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: `Bearer ${secret}` },
      body: JSON.stringify({ command: name, reason }),
      signal: AbortSignal.timeout(patienceMs),
      cache: "no-store",
      credentials: "omit",
    });
    const said = await answer.json();
    return { outcome: said.outcome ?? "refused", text: said.text ?? `answer ${answer.status}` };
  } catch (error) {
    const slow = error.name === "TimeoutError";
    return { outcome: "unreachable", text: slow ? "the page's server took too long" : "the page's server does not answer" };
  }
}
