// @ts-check
/**
 * The edits: the path, the chosen keyframe and the current frame, and everything a hand can do to them.
 *
 * @typedef {import("./path_state.mjs").Path} Path
 * @typedef {import("./path_state.mjs").Keyframe} Keyframe
 * @typedef {import("./path_state.mjs").Moment} Moment
 * @typedef {import("./camera_math.mjs").Matrix} Matrix
 * @typedef {import("./server.mjs").Sampled} Sampled
 * @typedef {{ edited: () => void, moved: () => void, said: (words: string) => void }} Listener
 *   edited: the path is another one; moved: only the frame or the choice is
 */
import { anglesOf, eased, fromFlat, placedAt, positionOf, turned, uneased } from "./camera_math.mjs";
import { History, withChange, withKey, withoutKey, withTime } from "./path_state.mjs";

const FIRST_STAYS = "The first keyframe is the camera of the first picture and stays. Go to a later frame.";

export class PathEdits {
  /** @param {Listener} listener */
  constructor(listener) {
    this.listener = listener;
    this.history = new History({ path: null, selected: -1 });
    this.frame = 0;
    /** What Python made of the path, or of the preset while there are no keyframes. @type {Sampled | null} */
    this.sampled = null;
    this.unit = 1; // one median depth of the scene in units of the path
  }

  get selected() {
    return this.history.now.selected;
  }

  /** The keyframes, or those of the preset as Python gave them. @returns {Path | null} */
  get path() {
    return this.history.now.path ?? this.sampled?.path ?? null;
  }

  get frames() {
    return this.sampled?.cam2world.length ?? 1;
  }

  /** The frame of the film that each keyframe is at. @returns {number[]} */
  keyFrames() {
    const path = this.path;
    const last = (this.sampled?.whole_frames ?? 2) - 1;
    return path ? path.keyframes.map((key) => uneased(path.easing, key.time) * last) : [];
  }

  /** @param {number} frame */
  keyAtFrame(frame) {
    return this.keyFrames().findIndex((one) => Math.abs(one - frame) < 0.5);
  }

  /** Time on the path at a frame. @param {Path} path @param {number} frame */
  timeOf(path, frame) {
    return eased(path.easing, Math.max(0, Math.min(1, frame / ((this.sampled?.whole_frames ?? 2) - 1))));
  }

  /** @param {(path: Path) => Moment} edit @param {string} [tag] joins changes to one step */
  edit(edit, tag = "") {
    const path = this.path;
    if (!path) return;
    const moment = edit(path);
    if (moment.path === path && moment.selected === this.selected) return;
    this.history.commit(moment, tag);
    this.listener.edited();
  }

  undo() {
    if (this.history.undo()) this.listener.edited();
  }

  redo() {
    if (this.history.redo()) this.listener.edited();
  }

  /** Forget the keyframes, so that the preset counts again. */
  forget() {
    this.edit(() => ({ path: null, selected: -1 }));
  }

  /** @param {number} index @param {(key: Keyframe) => Partial<Keyframe>} change @param {string} [tag] */
  change(index, change, tag) {
    const key = this.path?.keyframes[index];
    if (!key) return;
    const changed = change(key);
    if (index === 0 && changed.cam2world) return this.listener.said(FIRST_STAYS);
    this.edit((path) => ({ path: withChange(path, index, changed), selected: index }), tag && `${tag} ${index}`);
  }

  /** @param {[number, number, number]} step right, down and forward of the first camera, in median depths */
  shiftKey([x, y, z]) {
    this.change(this.selected, ({ cam2world }) => {
      const [px, py, pz] = positionOf(cam2world);
      return { cam2world: placedAt(cam2world, [px + x * this.unit, py + y * this.unit, pz + z * this.unit]) };
    }, "shift");
  }

  /** @param {{ pan?: number, tilt?: number, roll?: number }} turn in degrees */
  turnKey(turn) {
    this.change(this.selected, ({ cam2world }) => ({ cam2world: turned(cam2world, turn) }), "turn");
  }

  /** @param {number} index @param {number} pan degrees, absolute */
  aimKey(index, pan) {
    this.change(index, ({ cam2world }) => ({ cam2world: turned(cam2world, { pan: pan - anglesOf(cam2world).pan }) }), "aim");
  }

  /** A keyframe where the camera is at the current frame anyway. */
  addKey() {
    const index = this.keyAtFrame(this.frame);
    const flat = this.sampled?.cam2world[this.frame];
    if (index >= 0) this.select(index);
    else if (flat) this.putKey(fromFlat(flat));
  }

  /** The camera of the current frame, in a new keyframe or in the one that is there. @param {Matrix} cam2world */
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
    if (this.selected === 0) return this.listener.said(FIRST_STAYS);
    if (this.path?.keyframes.length === 2) return this.listener.said("A path has at least two keyframes.");
    this.edit((path) => withoutKey(path, this.selected));
  }

  /** The chosen keyframe at another frame. @param {number} frame @param {string} [tag] */
  retime(frame, tag) {
    this.edit((path) => withTime(path, this.selected, this.timeOf(path, frame)), tag);
    this.followKey();
  }

  /** @param {number} direction */
  shiftInTime(direction) {
    const frame = this.keyFrames()[this.selected];
    if (frame !== undefined) this.retime(Math.round(frame) + direction, "time");
  }

  /** All keyframes anew, as drawn by hand. @param {Keyframe[]} keyframes */
  replaceKeys(keyframes) {
    this.edit((path) => ({ path: { ...path, keyframes, interpolation: "smooth" }, selected: keyframes.length - 1 }));
    this.followKey();
  }

  /** @param {"easing" | "interpolation"} name @param {string} value */
  choose(name, value) {
    this.edit((path) => ({ path: { ...path, [name]: value }, selected: this.selected }));
  }

  /** @param {number} index */
  select(index) {
    this.history.now = { ...this.history.now, selected: index };
    this.history.settle();
    this.followKey();
  }

  /** @param {number} direction */
  selectNext(direction) {
    const count = this.path?.keyframes.length ?? 0;
    if (count) this.select(Math.max(0, Math.min(count - 1, this.selected + direction)));
  }

  followKey() {
    const frame = this.keyFrames()[this.selected];
    if (frame !== undefined) this.scrub(frame);
  }

  /** @param {number} frame */
  scrub(frame) {
    this.frame = Math.max(0, Math.min(this.frames - 1, Math.round(frame)));
    this.listener.moved();
  }
}
