// Puts the parts together: what arrives changes the model, and the model is drawn at most once a frame of the screen.

import { Traces } from "./charts.js";
import { Controls } from "./controls.js";
import { FeedView } from "./feed.js";
import { decode, ImageView } from "./image.js";
import { Stream, token } from "./link.js";
import { Model } from "./model.js";
import * as panels from "./panels.js";
import { RestoredView } from "./restored.js";
import { StedView } from "./sted.js";
import { $, put } from "./words.js";

const REDRAW_MS = 100, AGES_MS = 500;

const model = new Model();
const secret = token();
const image = new ImageView(), restored = new RestoredView(), traces = new Traces(), feed = new FeedView(), sted = new StedView();
const controls = new Controls(secret, () => soon());
let contact = "connecting", told = "", drawnMs = 0, waiting = 0;
const dirty = { image: false, data: true };

function draw() {
  waiting = 0;
  drawnMs = performance.now();
  const [state, live] = panels.head(model, contact);
  const refused = panels.alerts(model, contact, live);
  panels.tiles(model);
  panels.decided(model);
  panels.over(model);
  panels.facts(model, contact, refused);
  controls.draw(model, contact, state);
  image.veil(panels.veil(model, live));
  if (dirty.image) image.draw(model);
  restored.draw(model);
  if (dirty.data) {
    traces.draw(model);
    feed.draw(model);
    sted.draw(model);
  }
  dirty.image = dirty.data = false;
  const said = `${$("state-name").textContent} ${state === "stalled" ? "" : $("state-reason").textContent}`;
  if (said !== told) put("announce", (told = said));
}

function soon() {
  if (waiting || document.hidden) return;
  waiting = setTimeout(() => requestAnimationFrame(draw), Math.max(0, REDRAW_MS - (performance.now() - drawnMs)));
}

function heard(data) {
  if (typeof data === "string") {
    const session = model.facts.folder;
    model.apply(data);
    if (session && model.facts.folder !== session) for (const view of [image, restored]) view.clear();
    dirty.data = true;
  } else {
    const found = decode(data);
    (found.kind === "restored" ? restored : image).take(found);
    dirty.image = true;
  }
  soon();
}

function changed(state) {
  contact = state;
  soon();
}

setInterval(soon, AGES_MS);
document.addEventListener("visibilitychange", soon);
if (secret) new Stream(secret, heard, changed);
else changed("no-token");
