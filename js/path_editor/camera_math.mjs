// @ts-check
/**
 * Small pure functions on cameras. Matrices are 4 x 4 rows, camera to world, OpenCV axes (x right, y down, z forward),
 * as in the path's JSON. Angles are in degrees: pan right, tilt up and roll clockwise are positive.
 *
 * How the camera moves between keyframes is not here: Python answers that.
 *
 * @typedef {number[][]} Matrix
 * @typedef {[number, number, number]} Vector
 * @typedef {{ pan: number, tilt: number, roll: number }} Angles
 */

const DEGREE = Math.PI / 180;
const FULL_FRAME_WIDTH = 36; // mm; focal lengths are those of a full-frame camera

/** @returns {Matrix} */
export function identity() {
  return [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]];
}

/** @param {Matrix} a @param {Matrix} b @returns {Matrix} */
export function multiply(a, b) {
  return a.map((row) => b[0].map((_, column) => row.reduce((sum, value, k) => sum + value * b[k][column], 0)));
}

/** @param {ArrayLike<number>} flat 16 numbers, row by row @returns {Matrix} */
export function fromFlat(flat) {
  return [0, 4, 8, 12].map((start) => Array.from({ length: 4 }, (_, column) => flat[start + column]));
}

/**
 * Points [n x 3] as a camera sees them: x right, y down, z forward of it.
 * @param {Float32Array} points @param {Matrix} cam2world @returns {Float32Array}
 */
export function seenFrom(points, cam2world) {
  const seen = new Float32Array(points.length);
  const [[a, b, c, x], [d, e, f, y], [g, h, i, z]] = cam2world;
  for (let at = 0; at < points.length; at += 3) {
    const [u, v, w] = [points[at] - x, points[at + 1] - y, points[at + 2] - z];
    seen[at] = a * u + d * v + g * w;
    seen[at + 1] = b * u + e * v + h * w;
    seen[at + 2] = c * u + f * v + i * w;
  }
  return seen;
}

/** @param {Matrix} cam2world @returns {Vector} */
export function positionOf(cam2world) {
  return [cam2world[0][3], cam2world[1][3], cam2world[2][3]];
}

/** @param {Matrix} cam2world @param {Vector} position @returns {Matrix} */
export function placedAt(cam2world, position) {
  return cam2world.map((row, index) => (index < 3 ? [row[0], row[1], row[2], position[index]] : [...row]));
}

/** @param {Matrix} cam2world @param {number} x right @param {number} y down @param {number} z forward, of the camera */
export function shifted(cam2world, x, y, z) {
  const moved = positionOf(cam2world).map((value, i) => value + cam2world[i][0] * x + cam2world[i][1] * y + cam2world[i][2] * z);
  return placedAt(cam2world, /** @type {Vector} */ (moved));
}

/** Pan, tilt and roll, to be applied in this order. Straight up or down, roll is 0. @param {Matrix} cam2world @returns {Angles} */
export function anglesOf(cam2world) {
  const [[r00, , r02], [r10, r11, r12], [r20, , r22]] = cam2world;
  const tilt = Math.atan2(-r12, Math.hypot(r02, r22));
  if (Math.hypot(r02, r22) < 1e-9) return { pan: Math.atan2(-r20, r00) / DEGREE, tilt: tilt / DEGREE, roll: 0 };
  return { pan: Math.atan2(r02, r22) / DEGREE, tilt: tilt / DEGREE, roll: Math.atan2(r10, r11) / DEGREE };
}

/** @param {Angles} angles @param {Vector} position @returns {Matrix} */
export function fromAngles({ pan, tilt, roll }, position) {
  const [cp, sp] = [Math.cos(pan * DEGREE), Math.sin(pan * DEGREE)];
  const [ct, st] = [Math.cos(tilt * DEGREE), Math.sin(tilt * DEGREE)];
  const [cr, sr] = [Math.cos(roll * DEGREE), Math.sin(roll * DEGREE)];
  const about = {
    pan: [[cp, 0, sp, 0], [0, 1, 0, 0], [-sp, 0, cp, 0], [0, 0, 0, 1]],
    tilt: [[1, 0, 0, 0], [0, ct, -st, 0], [0, st, ct, 0], [0, 0, 0, 1]],
    roll: [[cr, -sr, 0, 0], [sr, cr, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
  };
  return placedAt(multiply(multiply(about.pan, about.tilt), about.roll), position);
}

/** @param {Matrix} cam2world @param {Partial<Angles>} turn to add @returns {Matrix} */
export function turned(cam2world, turn) {
  const { pan, tilt, roll } = anglesOf(cam2world);
  const clamped = Math.max(-90, Math.min(90, tilt + (turn.tilt ?? 0)));
  return fromAngles({ pan: pan + (turn.pan ?? 0), tilt: clamped, roll: roll + (turn.roll ?? 0) }, positionOf(cam2world));
}

/** @param {number} fov horizontal, degrees @returns {number} focal length in mm */
export function fovToMillimetres(fov) {
  return FULL_FRAME_WIDTH / 2 / Math.tan((fov * DEGREE) / 2);
}

/** @param {number} millimetres @returns {number} horizontal field of view in degrees */
export function millimetresToFov(millimetres) {
  return (2 * Math.atan(FULL_FRAME_WIDTH / 2 / millimetres)) / DEGREE;
}

/**
 * Corners of what a camera sees at `reach` in front of it, in the world: upper left, upper right, lower right, lower left.
 * @param {Matrix} cam2world @param {number} fov horizontal, degrees @param {number} aspect width / height
 * @param {number} reach @returns {Vector[]}
 */
export function frustumCorners(cam2world, fov, aspect, reach) {
  const x = reach * Math.tan((fov * DEGREE) / 2);
  const y = x / aspect;
  return [[-x, -y], [x, -y], [x, y], [-x, y]].map(([right, down]) => positionOf(shifted(cam2world, right, down, reach)));
}

/** Share of the path that has passed at a share of the film. @param {string} easing @param {number} time */
export function eased(easing, time) {
  if (easing === "ease") return time * time * (3 - 2 * time);
  if (easing === "ease_in") return time * time;
  if (easing === "ease_out") return time * (2 - time);
  return time;
}

/** The inverse of eased. @param {string} easing @param {number} share */
export function uneased(easing, share) {
  if (easing === "ease") return 0.5 - Math.sin(Math.asin(1 - 2 * share) / 3);
  if (easing === "ease_in") return Math.sqrt(share);
  if (easing === "ease_out") return 1 - Math.sqrt(1 - share);
  return share;
}
