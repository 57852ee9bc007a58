// @ts-check
/**
 * The camera path editor: one path, four views of it, and the edits. Its value is the path's JSON in the host's widget;
 * where the camera is in every frame, what the memory shows there and what the preflight says comes from Python.
 *
 * @typedef {import("./path_state.mjs").Path} Path
 * @typedef {import("./path_state.mjs").Keyframe} Keyframe
 * @typedef {import("./camera_math.mjs").Matrix} Matrix
 * @typedef {import("./server.mjs").Sampled} Sampled
 * @typedef {import("./server.mjs").Scene} Scene
 * @typedef {{ known: number[], levels: ("green" | "amber" | "red")[], level: string, suggestion: string }} Checked
 * @typedef {{ path: Path, selected: number, frame: number, frames: number, keyFrames: number[], sampled: Sampled | null,
 *   checked: Checked | null, fov: number, aspect: number, reach: number }} Shown
 *   fov: the scene's, in degrees; reach: length of a drawn frustum; keyFrames: the frame each keyframe is at
 * @typedef {{ settings: () => Record<string, any>, write: (text: string) => void, fedNodes: () => string[],
 *   api: import("./server.mjs").Api & EventTarget }} Host
 */
import { eased, fromFlat, placedAt, positionOf, turned, uneased } from "./camera_math.mjs";
import { KeyRow } from "./key_row.mjs";
import { pressed } from "./keyboard.mjs";
import { buildLayout } from "./layout.mjs";
import { History, readPath, withChange, withKey, withoutKey, withTime, writePath } from "./path_state.mjs";
import { PlanView } from "./plan_view.mjs";
import { SceneView } from "./scene_view.mjs";
import { SceneServer, newestOnly } from "./server.mjs";
import { keysOfStroke } from "./strokes.mjs";
import { Timeline } from "./timeline.mjs";

const LOOK_MS = 400; // how often the node's other widgets are looked at
const CHECK_MS = 250; // of rest before the preflight is asked

export class PathEditor {
  /** @param {Host} host */
  constructor(host) {
    this.host = host;
    this.server = new SceneServer(host.api);
    this.parts = buildLayout();
    this.root = this.parts.root;
    this.history = new History({ path: null, selected: -1 });
    this.frame = 0;
    /** @type {Sampled | null} */
    this.sampled = null;
    /** @type {Checked | null} */
    this.checked = null;
    /** @type {Scene | null} */
    this.scene = null;
    this.complaint = "";
    this.scene3d = new SceneView(this.parts.scene3d, {
      select: (index) => this.select(index),
      drag: (index, position) => this.change(index, (key) => ({ cam2world: placedAt(key.cam2world, position) }), "drag"),
      drop: () => this.settle(),
      moved: () => this.parts.scene3d.focus({ preventScroll: true }),
    });
    this.plan = new PlanView(this.parts.plan, {
      select: (index) => this.select(index),
      move: (index, [x, z]) => this.change(index, (key) => ({ cam2world: placedAt(key.cam2world, [x, positionOf(key.cam2world)[1], z]) }), "drag"),
      aim: (index, pan) => this.change(index, (key) => ({ cam2world: turned(key.cam2world, { pan: pan - this.panOf(key) }) }), "aim"),
      drop: () => this.settle(),
      draw: (spots) => this.takeStroke(spots),
    });
    this.timeline = new Timeline(this.parts.timeline, {
      select: (index) => this.select(index),
      scrub: (frame) => this.scrub(frame),
      retime: (_, frame) => this.retime(Math.round(frame), "retime"),
      drop: () => this.settle(),
    });
    this.keyRow = new KeyRow(this.parts.inputs, this.parts.fovUnit, this.parts.keyName, {
      change: (change) => this.change(this.selected, () => change),
      retime: (frame) => Number.isFinite(frame) && this.retime(frame),
    });
    this.askPath = newestOnly((settings, scene) => this.server.path(settings, scene), (sampled) => this.takeSampled(sampled), (error) => this.complain(error.message));
    this.askView = newestOnly((settings, scene, frame) => this.server.view(settings, scene, frame), (view) => this.takeView(view), (error) => this.takeNoView(error.message));
    this.askCheck = newestOnly((settings, scene) => this.server.preflight(settings, scene), (checked) => this.takeChecked(checked), () => this.takeChecked(null));
    this.listen();
    this.refreshScenes();
    this.look();
    this.looking = setInterval(() => this.look(), LOOK_MS);
  }

  get selected() {
    return this.history.now.selected;
  }

  /** The path that is shown: the keyframes, or those of the preset as Python gave them. @returns {Path | null} */
  get path() {
    return this.history.now.path ?? this.sampled?.path ?? null;
  }

  get frames() {
    return this.sampled?.cam2world.length ?? 1;
  }

  /** The node's settings have changed outside of the editor, or the editor is new. */
  look() {
    const settings = this.host.settings();
    const signature = JSON.stringify(settings);
    if (signature === this.signature) return;
    this.signature = signature;
    if (settings.keyframes !== this.written) this.readText(settings.keyframes);
    this.ask();
  }

  /** @param {string} text that somebody else has put into the node */
  readText(text) {
    this.written = text;
    this.complaint = "";
    try {
      this.history.reset({ path: text.trim() ? readPath(text) : null, selected: -1 });
    } catch {
      this.history.reset({ path: null, selected: -1 }); // Python says what is wrong with it
    }
  }

  ask() {
    this.askPath(this.host.settings(), this.scene?.node ?? null);
  }

  /** @param {(path: Path) => { path: Path | null, selected: number }} edit @param {string} [tag] joins changes to one step */
  edit(edit, tag = "") {
    const path = this.path;
    if (!path) return;
    const moment = edit(path);
    if (moment.path === path && moment.selected === this.selected) return;
    this.history.commit(moment, tag);
    this.save();
  }

  /** Hand the path to the node, and ask Python what it does now. */
  save() {
    const { path } = this.history.now;
    this.written = path ? writePath(path) : "";
    this.complaint = "";
    this.host.write(this.written);
    this.signature = JSON.stringify(this.host.settings());
    this.ask();
    this.show();
  }

  settle() {
    this.history.settle();
  }

  undo() {
    if (this.history.undo()) this.save();
  }

  redo() {
    if (this.history.redo()) this.save();
  }

  /** @param {number} index @param {(key: Keyframe) => Partial<Keyframe>} change @param {string} [tag] */
  change(index, change, tag) {
    const key = this.path?.keyframes[index];
    if (!key) return;
    const changed = change(key);
    if (index === 0 && changed.cam2world) return this.say("The first keyframe is the camera of the first picture and stays.");
    this.edit((path) => ({ path: withChange(path, index, changed), selected: index }), tag && `${tag} ${index}`);
  }

  /** @param {[number, number, number]} step right, down and forward of the first camera */
  shiftKey([x, y, z]) {
    const move = (/** @type {Keyframe} */ key) => {
      const [px, py, pz] = positionOf(key.cam2world);
      return { cam2world: placedAt(key.cam2world, [px + x * this.unit, py + y * this.unit, pz + z * this.unit]) };
    };
    this.change(this.selected, move, "keys");
  }

  /** @param {{ pan?: number, tilt?: number, roll?: number }} turn */
  turnKey(turn) {
    this.change(this.selected, (key) => ({ cam2world: turned(key.cam2world, turn) }), "turn");
  }

  /** @param {Keyframe} key */
  panOf(key) {
    return (Math.atan2(key.cam2world[0][2], key.cam2world[2][2]) * 180) / Math.PI;
  }

  addKey() {
    const index = this.keyAtFrame(this.frame);
    if (index >= 0) return this.select(index);
    const flat = this.sampled?.cam2world[this.frame];
    if (flat) this.putKey(fromFlat(flat));
  }

  keyFromView() {
    if (this.keyAtFrame(this.frame) === 0) return this.say("The first keyframe is the camera of the first picture. Go to a later frame first.");
    this.putKey(this.scene3d.viewMatrix());
  }

  /** @param {Matrix} cam2world of the current frame */
  putKey(cam2world) {
    const index = this.keyAtFrame(this.frame);
    if (index >= 0) return this.change(index, () => ({ cam2world }));
    this.edit((path) => {
      const zooms = path.keyframes.some((key) => key.fov_degrees !== null);
      const fov = zooms ? (this.sampled?.fov_degrees[this.frame] ?? null) : null;
      return withKey(path, { time: this.timeOf(path, this.frame), cam2world, fov_degrees: fov });
    });
  }

  removeKey() {
    if (this.selected === 0) return this.say("The first keyframe is the camera of the first picture and stays.");
    if (this.path?.keyframes.length === 2) return this.say("A path has at least two keyframes.");
    this.edit((path) => withoutKey(path, this.selected));
  }

  /** @param {number} frame @param {string} [tag] */
  retime(frame, tag) {
    this.edit((path) => withTime(path, this.selected, this.timeOf(path, frame)), tag);
    this.followKey();
  }

  /** @param {number} direction */
  shiftInTime(direction) {
    const frame = this.keyFrames()[this.selected];
    if (frame !== undefined) this.retime(Math.round(frame) + direction, "time");
  }

  /** @param {import("./strokes.mjs").Spot[]} spots */
  takeStroke(spots) {
    this.toggleDrawing(false);
    const look = /** @type {"ahead"} */ (this.parts.tools.look.value);
    const keyframes = keysOfStroke(spots, { look, centre: this.unit });
    this.edit((path) => ({ path: { ...path, keyframes, interpolation: "smooth" }, selected: keyframes.length - 1 }));
    this.followKey();
  }

  /** Time on the path at a frame. @param {Path} path @param {number} frame */
  timeOf(path, frame) {
    return eased(path.easing, Math.min(1, frame / ((this.sampled?.whole_frames ?? 2) - 1)));
  }

  keyFrames() {
    const path = this.path;
    const last = (this.sampled?.whole_frames ?? 2) - 1;
    return path ? path.keyframes.map((key) => uneased(path.easing, key.time) * last) : [];
  }

  /** @param {number} frame */
  keyAtFrame(frame) {
    return this.keyFrames().findIndex((one) => Math.abs(one - frame) < 0.5);
  }

  /** @param {number} index */
  select(index) {
    this.history.now = { ...this.history.now, selected: index };
    this.settle();
    this.followKey();
  }

  /** @param {number} direction */
  selectNext(direction) {
    const count = this.path?.keyframes.length ?? 0;
    if (count) this.select(Math.max(0, Math.min(count - 1, this.selected + direction)));
  }

  followKey() {
    const frame = this.keyFrames()[this.selected];
    if (frame !== undefined) this.scrub(Math.round(frame));
  }

  /** @param {number} frame */
  scrub(frame) {
    this.frame = Math.max(0, Math.min(this.frames - 1, Math.round(frame)));
    this.show();
    this.seeMemory();
  }

  togglePlay() {
    this.isPlaying = !this.isPlaying;
    this.parts.play.textContent = this.isPlaying ? "❚❚" : "▶";
    let [start, first] = [performance.now(), this.frame >= this.frames - 1 ? 0 : this.frame];
    const step = () => {
      if (!this.isPlaying || this.isDisposed) return;
      const frame = first + ((performance.now() - start) / 1000) * (this.sampled?.fps ?? 16);
      this.scrub(frame);
      if (frame >= this.frames - 1) this.togglePlay();
      else requestAnimationFrame(step);
    };
    step();
  }

  lookThrough() {
    const flat = this.sampled?.cam2world[this.frame];
    if (flat && this.sampled) this.scene3d.lookThrough(fromFlat(flat), this.sampled.fov_degrees[this.frame], this.unit);
  }

  overview() {
    this.scene3d.lookFromBehind(this.unit);
    this.plan.fit(this.unit);
  }

  /** @param {boolean} [isOn] */
  toggleDrawing(isOn = !this.plan.isDrawing) {
    this.plan.isDrawing = isOn;
    this.parts.tools.draw.setAttribute("aria-pressed", String(isOn));
    this.parts.plan.parentElement?.classList.toggle("drawing", isOn);
    if (isOn) this.say("Draw the path on the plan; it begins at the first camera.");
  }

  /** How long one median depth of the scene is in units of the path. */
  get unit() {
    return this.path?.unit === "world" ? (this.scene?.unit_length ?? 1) : 1;
  }

  /** @param {Sampled} sampled */
  takeSampled(sampled) {
    const isNew = !this.sampled;
    this.sampled = sampled;
    this.complaint = "";
    this.frame = Math.min(this.frame, this.frames - 1);
    this.scalePoints();
    this.show();
    if (isNew) this.overview();
    this.seeMemory();
    clearTimeout(this.checking);
    this.checking = setTimeout(() => this.scene && this.askCheck(this.host.settings(), this.scene.node), CHECK_MS);
  }

  seeMemory() {
    if (this.scene && !this.complaint) this.askView(this.host.settings(), this.scene.node, this.frame);
  }

  /** @param {{ picture: Blob, coverage: number, frame: number }} view */
  takeView({ picture, coverage, frame }) {
    const old = this.parts.memory.src;
    this.parts.memory.src = URL.createObjectURL(picture);
    if (old) URL.revokeObjectURL(old);
    this.parts.memory.dataset.frame = String(frame);
    this.parts.memoryWords.textContent = `memory at frame ${frame}: ${Math.round(100 * coverage)} % known`;
  }

  /** @param {string} words */
  takeNoView(words) {
    this.parts.memory.removeAttribute("src");
    this.parts.memoryWords.textContent = words;
  }

  /** @param {Checked | null} checked */
  takeChecked(checked) {
    this.checked = checked;
    this.show();
  }

  async refreshScenes() {
    const scenes = await this.server.scenes().catch((error) => (this.complain(error.message), []));
    const fed = this.host.fedNodes();
    const chosen = scenes.find((one) => one.node === this.chosenScene) ?? scenes.find((one) => fed.includes(one.node)) ?? scenes[0] ?? null;
    const describe = (/** @type {Scene} */ one) =>
      `${one.segments_done ? `memory after segment ${one.segments_done}` : "memory of the first picture"} · ${one.points.toLocaleString("en")} points`;
    this.parts.tools.scene.replaceChildren(...(scenes.length ? scenes : [null]).map((one) => new Option(one ? describe(one) : "no scene yet", one?.node ?? "")));
    this.parts.tools.scene.value = chosen?.node ?? "";
    const isOther = chosen?.version !== this.scene?.version;
    this.scene = chosen;
    if (!chosen) this.takeNoView("Run the workflow once to see its memory here.");
    if (!chosen || !isOther) return;
    this.points = await this.server.points(chosen.node).catch((error) => (this.complain(error.message), null));
    this.pointScale = undefined;
    this.scalePoints();
    this.ask();
  }

  /** The memory is in world units; the views are in those of the path. */
  scalePoints() {
    const scale = this.path?.unit === "world" ? 1 : 1 / (this.scene?.unit_length ?? 1);
    if (scale === this.pointScale || !this.points) return;
    this.pointScale = scale;
    this.scene3d.setPoints(this.points, scale);
    this.plan.setPoints(this.points, scale);
  }

  /** @param {string} words */
  complain(words) {
    this.complaint = words;
    this.checked = null;
    this.show();
  }

  /** @param {string} words */
  say(words) {
    this.parts.status.value = words;
    this.parts.status.dataset.level = "";
  }

  /** Bring all views up to date. */
  show() {
    const path = this.path;
    if (!path) return this.showStatus();
    const [height, width] = this.sampled?.image_size ?? [9, 16];
    /** @type {Shown} */
    const shown = {
      path, selected: this.selected, frame: this.frame, frames: this.frames, keyFrames: this.keyFrames(), sampled: this.sampled,
      checked: this.checked, fov: this.sampled?.scene_fov_degrees ?? 55, aspect: width / height, reach: 0.12 * this.unit,
    };
    for (const view of [this.scene3d, this.plan, this.timeline, this.keyRow]) view.show(shown);
    const { undo, redo, remove, interpolation, easing, preset } = this.parts.tools;
    undo.disabled = !this.history.past.length;
    redo.disabled = !this.history.future.length;
    remove.disabled = this.selected < 1 || path.keyframes.length <= 2;
    preset.disabled = !this.history.now.path;
    [interpolation.value, easing.value] = [path.interpolation, path.easing];
    this.parts.frameWords.value = `frame ${this.frame} of ${this.frames - 1}`;
    this.showStatus();
  }

  showStatus() {
    const { status } = this.parts;
    status.value = this.complaint || this.checked?.suggestion || (this.checked ? "The path keeps to what the memory and the model can do." : "");
    status.title = status.value;
    status.dataset.level = this.complaint ? "red" : (this.checked?.level ?? "");
  }

  listen() {
    const { tools, play, scene3d, plan, timeline } = this.parts;
    const presses = {
      undo: () => this.undo(), redo: () => this.redo(), add: () => this.addKey(), fromView: () => this.keyFromView(),
      remove: () => this.removeKey(), through: () => this.lookThrough(), behind: () => this.overview(),
      draw: () => this.toggleDrawing(), preset: () => this.edit(() => ({ path: null, selected: -1 })),
    };
    for (const [name, press] of Object.entries(presses)) tools[/** @type {"undo"} */ (name)].addEventListener("click", press);
    play.addEventListener("click", () => this.togglePlay());
    for (const name of /** @type {const} */ (["interpolation", "easing"])) {
      tools[name].addEventListener("change", () => this.edit((path) => ({ path: { ...path, [name]: tools[name].value }, selected: this.selected })));
    }
    tools.scene.addEventListener("change", () => {
      this.chosenScene = tools.scene.value;
      this.refreshScenes();
    });
    for (const one of [scene3d, plan, timeline]) {
      one.addEventListener("pointerdown", () => one.focus({ preventScroll: true }));
      // The host undoes its own last step on Ctrl+Z in whatever is not a text field; it tells by this property.
      Object.defineProperty(one, "type", { value: "textarea" });
    }
    this.root.addEventListener("keydown", (event) => {
      if (pressed(this, event)) event.preventDefault();
      else if (event.ctrlKey || event.metaKey || event.key === "Tab") return;
      event.stopPropagation(); // Delete would delete the node
    });
    // Otherwise the node or the canvas moves too.
    for (const name of ["pointerdown", "pointermove", "wheel", "contextmenu", "dblclick"]) {
      this.root.addEventListener(name, (event) => event.stopPropagation());
    }
    this.onScene = () => this.refreshScenes();
    this.host.api.addEventListener("mirage.scene", this.onScene);
  }

  dispose() {
    this.isDisposed = true;
    clearInterval(this.looking);
    clearTimeout(this.checking);
    this.host.api.removeEventListener("mirage.scene", /** @type {() => void} */ (this.onScene));
    for (const view of [this.scene3d, this.plan, this.timeline]) view.dispose();
    this.root.remove();
  }
}
