// @ts-check
/**
 * A box in the world as the text of Edit Memory: right, down, forward of its near corner, then of its far one.
 *
 * @typedef {[number, number, number]} Corner
 * @typedef {{ low: Corner, high: Corner }} Box
 */

/** The box of a text, or null when it is none; corners in any order. @param {string} text @returns {Box | null} */
export function readBox(text) {
  const numbers = text.replace(/[,;]/g, " ").trim().split(/\s+/).map(Number);
  if (numbers.length !== 6 || !numbers.every(Number.isFinite)) return null;
  const ends = [0, 1, 2].map((axis) => [numbers[axis], numbers[axis + 3]]);
  return {
    low: /** @type {Corner} */ (ends.map(([a, b]) => Math.min(a, b))),
    high: /** @type {Corner} */ (ends.map(([a, b]) => Math.max(a, b))),
  };
}

/**
 * The text of a box, in six digits, rounded outwards: a face through points must not lose them.
 *
 * @param {Box} box @returns {string}
 */
export function writeBox({ low, high }) {
  const outward = (/** @type {number} */ value, /** @type {number} */ way) => {
    const rounded = Number(value.toPrecision(6));
    const digit = 10 ** (Math.floor(Math.log10(Math.abs(rounded) || 1)) - 5);
    return String((rounded - value) * way >= 0 ? rounded : Number((rounded + way * digit).toPrecision(6)));
  };
  return `${low.map((value) => outward(value, -1)).join(" ")}  ${high.map((value) => outward(value, 1)).join(" ")}`;
}

/** Which of the points [3 n] lie in the box. @param {Float32Array} positions @param {Box} box @returns {Uint8Array} */
export function pointsIn(positions, { low, high }) {
  const inside = new Uint8Array(positions.length / 3);
  for (let i = 0; i < inside.length; i++) {
    const [x, y, z] = [positions[3 * i], positions[3 * i + 1], positions[3 * i + 2]];
    inside[i] = Number(x >= low[0] && x <= high[0] && y >= low[1] && y <= high[1] && z >= low[2] && z <= high[2]);
  }
  return inside;
}

/** Ends of the 12 edges. @param {Box} box @returns {Corner[]} */
export function edgesOf({ low, high }) {
  /** @type {Corner[]} */
  const ends = [];
  for (let axis = 0; axis < 3; axis++) {
    const [b, c] = [(axis + 1) % 3, (axis + 2) % 3];
    for (const [sideB, sideC] of [[low, low], [low, high], [high, low], [high, high]]) {
      for (const end of [low, high]) {
        /** @type {Corner} */
        const corner = [0, 0, 0];
        [corner[axis], corner[b], corner[c]] = [end[axis], sideB[b], sideC[c]];
        ends.push(corner);
      }
    }
  }
  return ends;
}

/** The middle 98 % of the points along each axis. @param {Float32Array} positions @returns {Box} */
export function extentOf(positions) {
  const box = /** @type {Box} */ ({ low: [-1, -1, -1], high: [1, 1, 1] });
  const count = positions.length / 3;
  if (!count) return box;
  const stride = Math.max(1, Math.floor(count / 20000));
  for (let axis = 0; axis < 3; axis++) {
    const values = new Float32Array(Math.ceil(count / stride));
    for (let i = 0, at = 0; i < count; i += stride) values[at++] = positions[3 * i + axis];
    values.sort();
    box.low[axis] = values[Math.floor(0.01 * (values.length - 1))];
    box.high[axis] = values[Math.ceil(0.99 * (values.length - 1))];
  }
  return box;
}
