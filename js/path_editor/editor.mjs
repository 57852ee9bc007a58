// @ts-check
/**
 * The camera path editor: one path, four views of it. Its value is the path's JSON in the host's widget; where the camera
 * is in every frame, what the memory shows there and what the preflight says comes from Python.
 *
 * @typedef {import("./path_state.mjs").Path} Path
 * @typedef {import("./server.mjs").Sampled} Sampled
 * @typedef {import("./server.mjs").Scene} Scene
 * @typedef {import("./server.mjs").Points} Points
 * @typedef {import("./server.mjs").Checked} Checked
 * @typedef {{ path: Path, selected: number, frame: number, frames: number, keyFrames: number[], sampled: Sampled | null,
 *   checked: Checked | null, fov: number, aspect: number, reach: number }} Shown
 *   fov: the scene's, in degrees; reach: length of a drawn frustum; keyFrames: the frame each keyframe is at
 * @typedef {{ settings: () => Record<string, any>, write: (text: string) => void, remember: () => void,
 *   linked: () => string[], fedNodes: () => string[], api: import("./server.mjs").Api & EventTarget }} Host
 *   remember: the workflow has changed; linked: inputs whose values come from other nodes; fedNodes: who gets the path
 */
import { fromFlat, placedAt, positionOf, seenFrom } from "./camera_math.mjs";
import { PathEdits } from "./edits.mjs";
import { KeyRow } from "./key_row.mjs";
import { pressed } from "./keyboard.mjs";
import { buildLayout } from "./layout.mjs";
import { readPath, writePath } from "./path_state.mjs";
import { PlanView } from "./plan_view.mjs";
import { SceneView } from "./scene_view.mjs";
import { SceneServer, newestOnly } from "./server.mjs";
import { keysOfStroke } from "./strokes.mjs";
import { Timeline } from "./timeline.mjs";

const LOOK_MS = 400; // how often the node's other widgets are looked at
const CHECK_MS = 250; // of rest before the preflight is asked, and before the host notes a change of the workflow

export class PathEditor {
  /** @param {Host} host */
  constructor(host) {
    this.host = host;
    this.server = new SceneServer(host.api);
    this.parts = buildLayout();
    this.root = this.parts.root;
    this.edits = new PathEdits({ edited: () => this.save(), moved: () => this.moved(), said: (words) => this.say(words) });
    /** @type {Checked | null} */
    this.checked = null;
    /** @type {Scene | null} */
    this.scene = null;
    /** @type {Points | null} */
    this.points = null;
    this.pointScale = 0;
    this.chosenScene = ""; // a node's id, and ">" after it for the newest filmed frame
    this.isFromHere = false; // whether the path goes on from there
    this.written = ""; // what this editor has put into the node, or has read from it
    this.signature = "";
    this.complaint = "";
    this.buildViews();
    this.buildQuestions();
    this.listen();
    this.refreshScenes();
    this.looking = setInterval(() => this.look(), LOOK_MS);
  }

  buildViews() {
    const { edits, parts } = this;
    const settle = () => edits.history.settle();
    const select = (/** @type {number} */ index) => edits.select(index);
    this.scene3d = new SceneView(parts.scene3d, {
      select,
      drag: (index, position) => edits.change(index, (key) => ({ cam2world: placedAt(key.cam2world, position) }), "drag"),
      drop: settle,
    });
    this.plan = new PlanView(parts.plan, {
      select,
      move: (index, [x, z]) => edits.change(index, ({ cam2world }) => ({ cam2world: placedAt(cam2world, [x, positionOf(cam2world)[1], z]) }), "drag"),
      aim: (index, pan) => edits.aimKey(index, pan),
      drop: settle,
      draw: (spots) => this.takeStroke(spots),
    });
    this.timeline = new Timeline(parts.timeline, {
      select,
      scrub: (frame) => edits.scrub(frame),
      retime: (frame) => edits.retime(Math.round(frame), "retime"),
      drop: settle,
    });
    this.keyRow = new KeyRow(parts.inputs, parts.fovUnit, parts.keyName, {
      change: (change) => edits.change(edits.selected, () => change),
      retime: (frame) => Number.isFinite(frame) && edits.retime(frame),
    });
  }

  buildQuestions() {
    const { server } = this;
    this.askPath = newestOnly(server.path.bind(server), (sampled) => this.takeSampled(sampled), (error) => this.complain(error.message));
    this.askView = newestOnly(server.view.bind(server), (view) => this.takeView(view), (error) => this.takeNoView(error.message));
    this.askCheck = newestOnly(server.preflight.bind(server), (checked) => this.takeChecked(checked), () => this.takeChecked(null));
  }

  /** The node's settings may have changed outside of the editor. */
  look() {
    const settings = this.host.settings();
    const signature = JSON.stringify(settings);
    if (signature === this.signature) return;
    this.signature = signature;
    if (settings.keyframes !== this.written) this.readText(settings.keyframes ?? "");
    this.ask();
  }

  /** @param {string} text that somebody else has put into the node */
  readText(text) {
    this.written = text;
    this.complaint = "";
    let path = null;
    try {
      path = text.trim() ? readPath(text) : null;
    } catch {
      // Python, which is asked next, says what is wrong with it.
    }
    this.edits.history.reset({ path, selected: -1 });
  }

  /** @returns {import("./server.mjs").Place} */
  place() {
    return { scene: this.scene?.node ?? null, from_here: this.isFromHere };
  }

  ask() {
    this.askPath?.(this.host.settings(), this.place());
  }

  /** Hand the path to the node, and ask Python what it does now. */
  save() {
    const { path } = this.edits.history.now;
    this.written = path ? writePath(path) : "";
    this.complaint = "";
    this.isStale = true; // what the preflight has said is about another path
    this.host.write(this.written);
    this.signature = JSON.stringify(this.host.settings());
    clearTimeout(this.remembering);
    this.remembering = setTimeout(this.host.remember, CHECK_MS);
    this.ask();
    this.show();
  }

  moved() {
    this.show();
    this.seeMemory();
  }

  /** @param {Sampled} sampled */
  takeSampled(sampled) {
    const isNew = !this.edits.sampled;
    this.edits.sampled = sampled;
    this.edits.frame = Math.min(this.edits.frame, this.edits.frames - 1);
    this.edits.unit = sampled.path.unit === "world" ? (this.scene?.unit_length ?? 1) : 1;
    this.complaint = "";
    this.scalePoints();
    if (isNew) this.overview();
    this.moved();
    clearTimeout(this.checking);
    this.checking = setTimeout(() => this.scene && this.askCheck?.(this.host.settings(), this.place()), CHECK_MS);
  }

  seeMemory() {
    if (this.scene && !this.complaint) this.askView?.(this.host.settings(), this.place(), this.edits.frame);
  }

  /** @param {{ picture: Blob, coverage: number, frame: number }} view */
  takeView({ picture, coverage, frame }) {
    const { memory, memoryWords } = this.parts;
    URL.revokeObjectURL(memory.src);
    memory.src = URL.createObjectURL(picture);
    memory.dataset.frame = String(frame);
    memoryWords.textContent = `memory at frame ${frame}: ${Math.round(100 * coverage)} % known`;
  }

  /** @param {string} words */
  takeNoView(words) {
    this.parts.memory.removeAttribute("src");
    this.parts.memoryWords.textContent = words;
  }

  /** @param {Checked | null} checked */
  takeChecked(checked) {
    this.checked = checked;
    this.isStale = false;
    this.show();
  }

  /** @param {string} words of Python about a path that it refuses */
  complain(words) {
    this.complaint = words;
    this.checked = null;
    this.show();
  }

  async refreshScenes() {
    const scenes = await this.server.scenes().catch((error) => (this.complain(error.message), []));
    const fed = this.host.fedNodes();
    const isFed = (/** @type {Scene} */ one) => fed.includes(one.node.split(":").pop() ?? "");
    const asked = this.chosenScene.replace(">", "");
    const chosen = scenes.find((one) => one.node === asked) ?? scenes.find(isFed) ?? scenes[0] ?? null;
    const isFromHere = chosen?.node === asked && this.chosenScene.endsWith(">") && chosen.segments_done > 0;
    const options = scenes.flatMap(sceneOptions);
    this.parts.tools.scene.replaceChildren(...(options.length ? options : [new Option("no scene yet", "")]));
    this.parts.tools.scene.value = (chosen?.node ?? "") + (isFromHere ? ">" : "");
    if (!chosen) this.takeNoView("Run the workflow once to see its memory here.");
    if (chosen?.version === this.scene?.version && isFromHere === this.isFromHere) return this.look();
    const points = chosen && (await this.server.points(chosen.node).catch((error) => (this.complain(error.message), null)));
    if (points && chosen && isFromHere) points.positions = seenFrom(points.positions, fromFlat(chosen.here));
    this.signature = ""; // ask again, in this scene
    [this.scene, this.isFromHere, this.points, this.pointScale] = [chosen, isFromHere, points, 0];
    this.scalePoints();
    this.look();
  }

  /** The memory is in world units; the views are in those of the path. */
  scalePoints() {
    const scale = this.edits.path?.unit === "world" ? 1 : 1 / (this.scene?.unit_length ?? 1);
    if (scale === this.pointScale) return;
    this.pointScale = scale;
    this.scene3d?.setPoints(this.points, scale);
    this.plan?.setPoints(this.points, scale);
  }

  /** @param {import("./strokes.mjs").Spot[]} spots */
  takeStroke(spots) {
    this.toggleDrawing(false);
    const look = /** @type {"ahead"} */ (this.parts.tools.look.value);
    this.edits.replaceKeys(keysOfStroke(spots, { look, centre: this.edits.unit }));
  }

  /** @param {boolean} [isOn] */
  toggleDrawing(isOn = !this.plan?.isDrawing) {
    if (this.plan) this.plan.isDrawing = isOn;
    this.parts.tools.draw.setAttribute("aria-pressed", String(isOn));
    this.parts.plan.parentElement?.classList.toggle("drawing", isOn);
    if (isOn) this.say("Draw the path on the plan; it begins at the first camera.");
    else this.showStatus();
  }

  togglePlay() {
    const { edits } = this;
    this.isPlaying = !this.isPlaying;
    this.parts.play.textContent = this.isPlaying ? "❚❚" : "▶";
    const [start, first] = [performance.now(), edits.frame >= edits.frames - 1 ? 0 : edits.frame];
    const step = () => {
      if (!this.isPlaying || this.isDisposed) return;
      const frame = first + ((performance.now() - start) / 1000) * (edits.sampled?.fps ?? 16);
      edits.scrub(frame);
      if (frame >= edits.frames - 1) this.togglePlay();
      else requestAnimationFrame(step);
    };
    step();
  }

  keyFromView() {
    if (this.scene3d) this.edits.putKey(this.scene3d.viewMatrix());
  }

  lookThrough() {
    const { sampled, frame, unit } = this.edits;
    if (sampled) this.scene3d?.lookThrough(fromFlat(sampled.cam2world[frame]), sampled.fov_degrees[frame], unit);
  }

  overview() {
    this.show();
    this.scene3d?.lookFromBehind(this.edits.unit);
    this.plan?.fit(this.edits.unit);
  }

  /** @param {string} words for now; the next change shows the preflight again */
  say(words) {
    this.parts.status.value = words;
    this.parts.status.dataset.level = "";
  }

  /** Bring all views up to date. */
  show() {
    const { edits, parts } = this;
    const { path, sampled, selected, frame, frames } = edits;
    if (path) {
      const [height, width] = sampled?.image_size ?? [9, 16];
      /** @type {Shown} */
      const shown = {
        path, selected, frame, frames, keyFrames: edits.keyFrames(), sampled, checked: this.checked,
        fov: sampled?.scene_fov_degrees ?? 55, aspect: width / height, reach: 0.12 * edits.unit,
      };
      for (const view of [this.scene3d, this.plan, this.timeline, this.keyRow]) view?.show(shown);
      const { undo, redo, remove, interpolation, easing, preset } = parts.tools;
      undo.disabled = !edits.history.past.length;
      redo.disabled = !edits.history.future.length;
      remove.disabled = selected < 1 || path.keyframes.length <= 2;
      preset.disabled = !edits.history.now.path;
      [interpolation.value, easing.value] = [path.interpolation, path.easing];
      parts.frameWords.value = `frame ${frame} of ${frames - 1}`;
    }
    this.showStatus();
  }

  showStatus() {
    const { status } = this.parts;
    const checked = this.isStale ? null : this.checked;
    const praise = checked ? "The path keeps to what the memory and the model can do." : "";
    status.value = this.complaint || this.foreignWords() || checked?.suggestion || praise;
    status.title = status.value;
    status.dataset.level = this.complaint ? "red" : (checked?.level ?? "");
  }

  /** What this editor cannot know, because it comes from other nodes when the workflow runs. */
  foreignWords() {
    const linked = this.host.linked();
    if (linked.includes("keyframes")) return "The keyframes come from another node; what is edited here is not filmed.";
    return linked.length ? `${linked.join(", ")} from another node: the film may differ from what is shown here.` : "";
  }

  listen() {
    const { edits, parts } = this;
    const { tools } = parts;
    const presses = {
      undo: () => edits.undo(), redo: () => edits.redo(), add: () => edits.addKey(), fromView: () => this.keyFromView(),
      remove: () => edits.removeKey(), through: () => this.lookThrough(), behind: () => this.overview(),
      draw: () => this.toggleDrawing(), preset: () => edits.forget(),
    };
    for (const [name, press] of Object.entries(presses)) tools[/** @type {"undo"} */ (name)].addEventListener("click", press);
    parts.play.addEventListener("click", () => this.togglePlay());
    for (const name of /** @type {const} */ (["interpolation", "easing"])) {
      tools[name].addEventListener("change", () => edits.choose(name, tools[name].value));
    }
    tools.scene.addEventListener("change", () => {
      this.chosenScene = tools.scene.value;
      this.refreshScenes();
    });
    for (const one of [parts.scene3d, parts.plan, parts.timeline]) {
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
    if (this.onScene) this.host.api.removeEventListener("mirage.scene", this.onScene);
    for (const view of [this.scene3d, this.plan, this.timeline]) view?.dispose();
    this.root.remove();
  }
}

/** @param {Scene} scene @returns {HTMLOptionElement[]} */
function sceneOptions({ node, segments_done, points }) {
  const count = `${points.toLocaleString("en")} points`;
  if (!segments_done) return [new Option(`memory of the first picture · ${count}`, node)];
  const memory = `memory after segment ${segments_done} · ${count}`;
  return [new Option(memory, node), new Option(`${memory} · going on from its end`, `${node}>`)];
}
