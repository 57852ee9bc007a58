// @ts-check
/**
 * A line drawn on the plan becomes keyframes: few where it is straight, more where it bends.
 *
 * @typedef {import("./path_state.mjs").Keyframe} Keyframe
 * @typedef {[number, number]} Spot x right and z forward, in units of the path
 */
import { fromAngles, identity } from "./camera_math.mjs";

const MAX_KEYS = 16;
const TOLERANCE = 0.01; // of the line's length: how far keys may leave the line
const MAX_TURN = 120; // degrees between keys; at 180 the way round is not defined

/**
 * @param {Spot[]} drawn at least one spot; a line from the first camera to its beginning is added
 * @param {{ look: "ahead" | "along" | "centre", centre: number }} options centre: how far ahead the scene's middle is
 * @returns {Keyframe[]} from time 0 to 1 at equal speed, at the height of the first camera
 */
export function keysOfStroke(drawn, { look, centre }) {
  const line = fewer(/** @type {Spot[]} */ ([[0, 0], ...drawn]));
  const steps = line.slice(1).map((spot, i) => Math.hypot(spot[0] - line[i][0], spot[1] - line[i][1]));
  const total = steps.reduce((sum, step) => sum + step, 0);
  let [passed, pan] = [0, 0];
  return line.map((spot, i) => {
    passed += i ? steps[i - 1] : 0;
    if (i === 0) return { time: 0, cam2world: identity(), fov_degrees: null };
    pan = nearTo(pan, panAt(line, i, look, centre));
    const time = i === line.length - 1 ? 1 : passed / total;
    return { time, cam2world: fromAngles({ pan, tilt: 0, roll: 0 }, [spot[0], 0, spot[1]]), fov_degrees: null };
  });
}

/** @param {Spot[]} line @param {number} i @param {string} look @param {number} centre */
function panAt(line, i, look, centre) {
  if (look === "ahead") return 0;
  const [x, z] = line[i];
  if (look === "centre") return Math.atan2(-x, centre - z) / (Math.PI / 180);
  const [from, to] = [line[i - 1], line[Math.min(i + 1, line.length - 1)]];
  return Math.atan2(to[0] - from[0], to[1] - from[1]) / (Math.PI / 180);
}

/** `pan` by the shortest way from `before`, and at most MAX_TURN away. @param {number} before @param {number} pan */
function nearTo(before, pan) {
  const turn = ((((pan - before + 180) % 360) + 360) % 360) - 180;
  return before + Math.max(-MAX_TURN, Math.min(MAX_TURN, turn));
}

/** The line with few spots (Ramer, Douglas and Peucker), none twice. @param {Spot[]} drawn @returns {Spot[]} */
function fewer(drawn) {
  const line = drawn.filter((spot, i) => !i || Math.hypot(spot[0] - drawn[i - 1][0], spot[1] - drawn[i - 1][1]) > 1e-9);
  if (line.length < 2) return [line[0], [line[0][0], line[0][1] + 1e-6]];
  let tolerance = TOLERANCE * line.slice(1).reduce((sum, spot, i) => sum + Math.hypot(spot[0] - line[i][0], spot[1] - line[i][1]), 0);
  let kept = simplified(line, tolerance);
  while (kept.length > MAX_KEYS) kept = simplified(line, (tolerance *= 1.5));
  return kept;
}

/** @param {Spot[]} line @param {number} tolerance @returns {Spot[]} */
function simplified(line, tolerance) {
  const [first, last] = [line[0], line[line.length - 1]];
  let [worst, at] = [0, 0];
  line.forEach((spot, i) => {
    const distance = distanceTo(spot, first, last);
    if (distance > worst) [worst, at] = [distance, i];
  });
  if (worst <= tolerance) return [first, last];
  return [...simplified(line.slice(0, at + 1), tolerance), ...simplified(line.slice(at), tolerance).slice(1)];
}

/** From a spot to the piece from a to b. @param {Spot} spot @param {Spot} a @param {Spot} b */
function distanceTo(spot, a, b) {
  const [dx, dz] = [b[0] - a[0], b[1] - a[1]];
  const square = dx * dx + dz * dz;
  const share = square ? Math.max(0, Math.min(1, ((spot[0] - a[0]) * dx + (spot[1] - a[1]) * dz) / square)) : 0;
  return Math.hypot(spot[0] - a[0] - share * dx, spot[1] - a[1] - share * dz);
}
