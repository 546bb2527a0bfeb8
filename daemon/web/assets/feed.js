// What happened: the newest first, each entry drawn once and changed where it stands.

import { $, flag, make, put, show, timeOfDay } from "./words.js";

const NAMES = { hold: "hold", change: "move", finish: "finish", refused: "REFUSED", state: "state", order: "person", "order-refused": "REFUSED", setting: "setting", link: "connection" };
const GROUPS = {
  all: () => true,
  moves: (kind) => kind === "change" || kind === "finish" || kind === "refused",
  refused: (kind) => kind === "refused" || kind === "order-refused",
  people: (kind) => ["order", "order-refused", "setting", "state", "link"].includes(kind),
};
const MOST = 250;

export class FeedView {
  constructor() {
    this.list = $("entries");
    this.group = "all";
    this.drawn = new Map();
    for (const input of document.querySelectorAll("input[name=feed]")) {
      input.addEventListener("change", () => {
        this.group = input.value;
        this.drawn.clear();
        this.list.replaceChildren();
        this.draw(this.model);
      });
    }
  }

  draw(model) {
    this.model = model;
    if (!model) return;
    for (const [id, item] of this.drawn) {
      if (!model.entries.has(id)) {
        item.element.remove();
        this.drawn.delete(id);
      }
    }
    const wanted = [...model.entries.values()].filter((one) => GROUPS[this.group](one.kind)).slice(-MOST);
    for (const entry of wanted) {
      const item = this.drawn.get(entry.id);
      if (item?.entry === entry) continue;
      if (item) this.fill(item.element, entry);
      else this.list.prepend(this.fill(make("li"), entry));
      this.drawn.set(entry.id, { entry, element: item?.element ?? this.list.firstChild });
    }
    while (this.list.children.length > MOST) {
      this.drawn.delete(Number(this.list.lastChild.dataset.id));
      this.list.lastChild.remove();
    }
    show("no-entries", wanted.length === 0);
  }

  fill(element, entry) {
    if (!element.firstChild) {
      element.append(make("time"), make("span", "", "tag"), make("span", "", "what"), make("span", "", "reason"), make("span", "", "at"));
      element.dataset.id = entry.id;
    }
    const [time, tag, what, reason, at] = element.children;
    flag(element, "kind", entry.kind);
    flag(tag, "kind", entry.kind);
    put(time, timeOfDay(entry.until_s));
    put(tag, entry.what.startsWith("would") ? "would" : NAMES[entry.kind] ?? entry.kind);
    const said = entry.kind === "hold" ? "" : entry.kind === "refused" ? entry.what.replace(/^refused: ?/, "") : entry.what;
    put(what, entry.count > 1 ? `${said} ×${entry.count}`.trim() : said);
    put(reason, entry.reason);
    put(at, entry.frame === null ? "" : `frame ${entry.frame}`);
    return element;
  }
}
