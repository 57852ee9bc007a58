// @ts-check
/**
 * The path as the editor changes it: plain data and pure functions, and a history of it. Python validates the path;
 * here only what an edit itself must keep is kept: times rise from 0 to 1, the first keyframe is the first picture.
 *
 * @typedef {import("./camera_math.mjs").Matrix} Matrix
 * @typedef {{ time: number, cam2world: Matrix, fov_degrees: number | null }} Keyframe
 * @typedef {{ format: string, version: number, unit: string, easing: string, interpolation: string, keyframes: Keyframe[] }} Path
 * @typedef {{ path: Path | null, selected: number }} Moment
 */

export const MIN_GAP = 1e-7; // of the path, between two keyframes: a soft start takes less than 1e-6 for a first frame
const LIMIT = 200; // steps that can be undone

/** @param {string} text @returns {Path} */
export function readPath(text) {
  const path = JSON.parse(text);
  const isPath = Array.isArray(path?.keyframes) && path.keyframes.length >= 2;
  if (!isPath || !path.keyframes.every((/** @type {any} */ key) => typeof key?.time === "number" && Array.isArray(key.cam2world))) {
    throw new Error("keyframes is not a Mirage camera path.");
  }
  return {
    format: "mirage camera path",
    version: 1,
    unit: path.unit ?? "median_depth",
    easing: path.easing ?? "ease",
    interpolation: path.interpolation ?? "smooth",
    keyframes: path.keyframes.map((/** @type {any} */ key) => ({ ...key, fov_degrees: key.fov_degrees ?? null })),
  };
}

/** @param {Path} path */
export function writePath(path) {
  return JSON.stringify(path);
}

/** @param {Path} path @param {Keyframe[]} keyframes @returns {Path} */
function withKeys(path, keyframes) {
  return { ...path, keyframes };
}

/** @param {number} time */
function inside(time) {
  return Math.min(1 - MIN_GAP, Math.max(MIN_GAP, time));
}

/** `time`, or the next one on the side of `direction` at which there is no keyframe. */
function freeTime(/** @type {Keyframe[]} */ keys, /** @type {number} */ time, /** @type {number} */ direction) {
  const taken = () => keys.find((key) => Math.abs(key.time - time) < 0.9 * MIN_GAP);
  for (let hit = taken(); hit; hit = taken()) {
    time = hit.time + direction * MIN_GAP;
    if (time <= 0 || time >= 1) [time, direction] = [inside(time), -direction];
  }
  return time;
}

/** The keyframe at this time, or -1. @param {Path} path @param {number} time @param {number} gap */
export function keyNear(path, time, gap = MIN_GAP) {
  return path.keyframes.findIndex((key) => Math.abs(key.time - time) <= gap);
}

/**
 * A keyframe more, or the one at this time replaced. The first keyframe keeps its place and direction.
 * @param {Path} path @param {Keyframe} key @param {number} gap how near counts as the same time
 * @returns {{ path: Path, selected: number }}
 */
export function withKey(path, key, gap = MIN_GAP) {
  const near = keyNear(path, key.time, gap);
  if (near >= 0) return { path: withChange(path, near, key), selected: near };
  const keyframes = [...path.keyframes, { ...key, time: inside(key.time) }].sort((a, b) => a.time - b.time);
  return { path: withKeys(path, keyframes), selected: keyframes.findIndex((one) => !path.keyframes.includes(one)) };
}

/**
 * Another place, direction or field of view for keyframe `index`; of the first only the field of view can change.
 * @param {Path} path @param {number} index @param {{ cam2world?: Matrix, fov_degrees?: number | null }} change
 */
export function withChange(path, index, { cam2world, fov_degrees }) {
  return withKeys(path, path.keyframes.map((key, i) => {
    if (i !== index) return key;
    const place = index === 0 || !cam2world ? key.cam2world : cam2world;
    return { ...key, cam2world: place, fov_degrees: fov_degrees === undefined ? key.fov_degrees : fov_degrees };
  }));
}

/**
 * Without keyframe `index`. The first stays, and two always stay; without the last, the one before it becomes the end.
 * @param {Path} path @param {number} index @returns {{ path: Path, selected: number }}
 */
export function withoutKey(path, index) {
  const keys = path.keyframes;
  if (index <= 0 || keys.length <= 2) return { path, selected: index };
  const left = keys.filter((_, i) => i !== index);
  if (index === keys.length - 1) left[left.length - 1] = { ...left[left.length - 1], time: 1 };
  return { path: withKeys(path, left), selected: Math.min(index, left.length - 1) };
}

/**
 * Keyframe `index` at another time; past its neighbours it changes the order. The first and the last stay at their ends.
 * @param {Path} path @param {number} index @param {number} time @returns {{ path: Path, selected: number }}
 */
export function withTime(path, index, time) {
  const keys = path.keyframes;
  if (index <= 0 || index >= keys.length - 1) return { path, selected: index };
  const others = keys.filter((_, i) => i !== index);
  const moved = { ...keys[index], time: freeTime(others, inside(time), time < keys[index].time ? 1 : -1) };
  const keyframes = [...others, moved].sort((a, b) => a.time - b.time);
  return { path: withKeys(path, keyframes), selected: keyframes.indexOf(moved) };
}

/** Undo and redo over moments. Changes with the same tag in a row, as in one drag, are one step. */
export class History {
  /** @param {Moment} moment */
  constructor(moment) {
    this.now = moment;
    /** @type {Moment[]} */
    this.past = [];
    /** @type {Moment[]} */
    this.future = [];
    this.tag = "";
  }

  /** Begin anew, without steps. @param {Moment} moment */
  reset(moment) {
    [this.now, this.past, this.future, this.tag] = [moment, [], [], ""];
  }

  /** @param {Moment} moment @param {string} tag "" never joins the step before */
  commit(moment, tag = "") {
    if (!tag || tag !== this.tag) this.past.push(this.now);
    if (this.past.length > LIMIT) this.past.shift();
    this.now = moment;
    this.future = [];
    this.tag = tag;
  }

  /** The next change is a step of its own. */
  settle() {
    this.tag = "";
  }

  /** @returns {boolean} whether there was a step */
  undo() {
    return this.step(this.past, this.future);
  }

  /** @returns {boolean} whether there was a step */
  redo() {
    return this.step(this.future, this.past);
  }

  /** @param {Moment[]} from @param {Moment[]} to */
  step(from, to) {
    const moment = from.pop();
    if (!moment) return false;
    to.push(this.now);
    this.now = moment;
    this.tag = "";
    return true;
  }
}
