// @ts-check
/**
 * The tuner: presets, the overlay of one frame with a scrubber, and sliders. Every change is answered by Python with
 * the mask it makes of the evidence that the last run left on the server.
 */
import { newestOnly } from "../path_editor/server.mjs";
import { MaskServer, isNode } from "./mask_server.mjs";
import { changed, complete, known, presetName, presetOf } from "./rules_state.mjs";
import { made, sliderRow } from "./slider_row.mjs";

const LABELS = { sky_threshold: "sky from", moving_threshold: "moves from", unsure_threshold: "unsure from", grow: "grow, px",
  feather: "feather, px", hold: "hold, frames", min_area: "min area, %" };
const COLORS = { written: "#33cc6b", sky: "#337aff", moving: "#ff3340", unsure: "#ffb826" };
const FIRST_RUN = "Connect Scene Evidence to evidence and run the workflow once; then the mask can be tuned here.";

/**
 * @typedef {{ api: any, id: () => string, tuning: () => import("./rules_state.mjs").Tuning,
 *   write: (tuning: import("./rules_state.mjs").Tuning) => void, remember: () => void }} Host
 */
export class MaskTuner {
  /** @param {Host} host */
  constructor(host) {
    this.host = host;
    this.server = new MaskServer(host.api);
    /** @type {import("./rules_state.mjs").Described | null} */
    this.described = null;
    /** @type {import("./mask_server.mjs").Told | undefined} */
    this.told = undefined;
    this.frame = 0;
    this.view = "pixels";
    /** @type {Record<string, ReturnType<typeof sliderRow>>} */
    this.rows = {};
    this.root = made("div", "mirage-mask-tuner");
    this.parts = this.build();
    this.ask = newestOnly(
      (...given) => this.server.picture(.../** @type {[string, any, number, string]} */ (given)),
      (answer) => this.showPicture(answer),
      (error) => this.say(error.message),
    );
    this.onMask = (/** @type {any} */ event) => isNode(event.detail.node, host.id()) && this.takeRun(event.detail);
    host.api.addEventListener("mirage.mask", this.onMask);
    this.start();
  }

  async start() {
    try {
      this.described = await this.server.rules();
      this.buildSliders();
      await this.listPresets();
      this.takeRun(await this.server.newest(this.host.id()));
    } catch (error) {
      this.say(/** @type {Error} */ (error).message);
    }
  }

  build() {
    const parts = {
      preset: made("select", "preset", { ariaLabel: "Preset", title: "Start from a preset, or from a scene preset of yours" }),
      name: made("input", "name", { type: "text", placeholder: "name", ariaLabel: "Name of the scene preset", maxLength: 60 }),
      save: made("button", "save", { type: "button", textContent: "Save as scene preset", title: "Keep these sliders in ComfyUI's user folder" }),
      image: made("img", "overlay", { alt: "The frame under the mask", draggable: false }),
      legend: made("div", "legend"),
      scrub: made("input", "scrub", { type: "range", min: "0", max: "0", step: "1", value: "0", ariaLabel: "Frame" }),
      at: made("output", "at"),
      view: made("button", "view", { type: "button", textContent: "Cells", title: "Show latent cells: exactly what the memory takes" }),
      status: made("div", "status", { role: "status" }),
      sliders: made("div", "sliders"),
    };
    const top = made("div", "line");
    top.append(parts.preset, parts.name, parts.save);
    const below = made("div", "line");
    below.append(parts.scrub, parts.at, parts.view);
    this.root.append(top, parts.image, below, parts.legend, parts.status, parts.sliders);
    parts.preset.addEventListener("change", () => this.choose(parts.preset.value));
    parts.save.addEventListener("click", () => this.save());
    parts.scrub.addEventListener("input", () => this.showFrame(Number(parts.scrub.value)));
    parts.view.addEventListener("click", () => {
      this.view = this.view === "pixels" ? "cells" : "pixels";
      parts.view.setAttribute("aria-pressed", String(this.view === "cells"));
      this.refresh();
    });
    // The canvas would pan, zoom, or delete the node.
    for (const name of ["pointerdown", "wheel", "keydown", "dblclick"]) this.root.addEventListener(name, (event) => event.stopPropagation());
    return parts;
  }

  buildSliders() {
    const described = /** @type {import("./rules_state.mjs").Described} */ (this.described);
    const { sliders } = this.parts;
    sliders.replaceChildren();
    for (const [name, label] of Object.entries(LABELS)) sliders.append(this.row(name, label, described.limits[name]).root);
    const priority = made("select", "priority", { ariaLabel: "Priority", title: "Who wins where a pixel is both to keep and to leave out" });
    for (const one of described.priorities) priority.append(new Option(one, one));
    priority.addEventListener("change", () => this.set("priority", priority.value, true));
    const line = made("label", "line");
    line.append(made("span", "label", { textContent: "priority" }), priority);
    this.parts.priority = priority;
    const sources = made("details", "sources");
    sources.append(made("summary", "", { textContent: "How much each source counts" }));
    for (const [name, { label, kind }] of Object.entries(described.sources)) {
      const limit = { min: 0, max: described.max_weight, step: 0.05, tooltip: `Speaks of: ${kind}. 0 is not listened to.` };
      sources.append(this.row(`weights.${name}`, label, limit).root);
    }
    sliders.append(line, sources);
    this.showSettings();
  }

  /** @param {string} name @param {string} label @param {import("./rules_state.mjs").Limit} limit */
  row(name, label, limit) {
    this.rows[name] = sliderRow(name, label, limit, (value, isDone) => this.set(name, value, isDone));
    return this.rows[name];
  }

  /** @param {string} name @param {number | string} value @param {boolean} isDone false while a slider is dragged */
  set(name, value, isDone) {
    if (!this.described) return;
    this.host.write(changed(this.described, this.host.tuning(), name, value));
    this.showSettings();
    this.refresh();
    if (isDone) this.host.remember();
  }

  /** The widget was given another value: by loading a workflow, undo, or a script. */
  takeValue() {
    this.showSettings();
    this.refresh();
  }

  showSettings() {
    if (!this.described) return;
    const whole = complete(this.described, this.host.tuning());
    for (const [name, row] of Object.entries(this.rows)) {
      row.show(name.startsWith("weights.") ? whole.weights[name.slice(8)] : whole[name]);
    }
    this.parts.priority.value = whole.priority;
    this.parts.preset.value = presetOf(this.described.presets, whole) || this.parts.preset.querySelector("option[data-own]:checked")?.value || "";
  }

  async listPresets() {
    const described = /** @type {import("./rules_state.mjs").Described} */ (this.described);
    const { preset } = this.parts;
    const [built, own] = [made("optgroup", "", { label: "Presets" }), made("optgroup", "", { label: "Your scenes" })];
    for (const name of Object.keys(described.presets)) built.append(new Option(name, name));
    for (const name of await this.server.savedNames()) {
      const option = new Option(name, `own:${name}`);
      option.dataset.own = "";
      own.append(option);
    }
    const custom = new Option("your settings", "");
    custom.disabled = true;
    preset.replaceChildren(custom, built, ...(own.children.length ? [own] : []));
    this.showSettings();
  }

  /** @param {string} value */
  async choose(value) {
    if (!this.described) return;
    try {
      const isOwn = value.startsWith("own:");
      const tuning = isOwn ? known(this.described, await this.server.load(value.slice(4))) : this.described.presets[value];
      this.host.write(structuredClone(tuning));
      this.takeValue();
      if (isOwn) this.parts.preset.value = value;
      this.host.remember();
    } catch (error) {
      this.say(/** @type {Error} */ (error).message);
    }
  }

  async save() {
    if (!this.described) return;
    const name = presetName(this.parts.name.value);
    if (!name) {
      this.say("Type a name of letters, digits, spaces and _ . ( ) + - for the scene preset.");
      this.parts.name.focus();
      return;
    }
    try {
      await this.server.save(name, complete(this.described, this.host.tuning()));
      await this.listPresets();
      this.parts.preset.value = `own:${name}`;
      this.say(`Saved as "${name}".`);
    } catch (error) {
      this.say(/** @type {Error} */ (error).message);
    }
  }

  /** @param {import("./mask_server.mjs").Told | undefined} told */
  takeRun(told) {
    this.told = told;
    this.root.dataset.version = String(told?.version ?? 0);
    this.root.classList.toggle("empty", !told);
    if (!told) return this.say(FIRST_RUN);
    this.say("");
    this.parts.scrub.max = String(told.frames - 1);
    for (const [name, row] of Object.entries(this.rows)) {
      if (name.startsWith("weights.")) row.root.classList.toggle("missing", !told.sources.includes(name.slice(8)));
    }
    this.showFrame(Math.min(this.frame, told.frames - 1));
  }

  /** @param {number} frame */
  showFrame(frame) {
    this.frame = frame;
    this.parts.scrub.value = String(frame);
    this.parts.at.textContent = `${frame + 1} / ${this.told?.frames ?? 0}`;
    this.refresh();
  }

  refresh() {
    if (this.told && this.described) this.ask(this.told.node, complete(this.described, this.host.tuning()), this.frame, this.view);
  }

  /** @param {{ picture: Blob, shares: Record<string, number>, frame: number }} answer */
  showPicture({ picture, shares, frame }) {
    const { image, legend } = this.parts;
    URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(picture);
    image.dataset.frame = String(frame);
    image.dataset.shares = JSON.stringify(shares);
    legend.replaceChildren(...Object.entries(COLORS).map(([name, color]) => {
      const entry = made("span", name, { textContent: `${name} ${(100 * (shares[name] ?? 0)).toFixed(1)} %` });
      entry.style.setProperty("--color", color);
      return entry;
    }));
    this.say("");
  }

  /** @param {string} text */
  say(text) {
    this.parts.status.textContent = text;
  }

  dispose() {
    this.host.api.removeEventListener("mirage.mask", this.onMask);
    URL.revokeObjectURL(this.parts.image.src);
    this.root.remove();
  }
}
