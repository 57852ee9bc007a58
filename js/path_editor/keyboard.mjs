// @ts-check
/**
 * Which key does what. Letters work everywhere in the editor, arrows act on what has the focus.
 *
 * @typedef {import("./editor.mjs").PathEditor} PathEditor
 */

const STEP = 0.02; // units of the path
const TURN = 1; // degrees

/** @type {Record<string, (editor: PathEditor) => void>} */
const ANYWHERE = {
  k: (editor) => editor.edits.addKey(),
  v: (editor) => editor.keyFromView(),
  c: (editor) => editor.lookThrough(),
  o: (editor) => editor.overview(),
  d: (editor) => editor.toggleDrawing(),
  delete: (editor) => editor.edits.removeKey(),
  backspace: (editor) => editor.edits.removeKey(),
  escape: (editor) => editor.toggleDrawing(false),
  ",": (editor) => editor.edits.selectNext(-1),
  ".": (editor) => editor.edits.selectNext(1),
};

/** @type {Record<string, [number, number, number]>} right, down, forward */
const MOVES = {
  arrowleft: [-STEP, 0, 0], arrowright: [STEP, 0, 0], arrowup: [0, 0, STEP], arrowdown: [0, 0, -STEP],
  pageup: [0, -STEP, 0], pagedown: [0, STEP, 0],
};

/** @type {Record<string, { pan?: number, tilt?: number, roll?: number }>} */
const TURNS = {
  arrowleft: { pan: -TURN }, arrowright: { pan: TURN }, arrowup: { tilt: TURN }, arrowdown: { tilt: -TURN },
  pageup: { roll: TURN }, pagedown: { roll: -TURN },
};

/** @type {Record<string, number>} frames; the ends are beyond any film */
const FRAMES = { arrowleft: -1, arrowright: 1, pageup: -8, pagedown: 8, home: -1e6, end: 1e6 };

/**
 * @param {PathEditor} editor @param {KeyboardEvent} event
 * @returns {boolean} whether the editor has used the key
 */
export function pressed(editor, event) {
  const key = event.key.toLowerCase();
  const focus = /** @type {HTMLElement} */ (event.target);
  if (focus.tagName === "INPUT") return false;
  if (event.ctrlKey || event.metaKey) {
    if (key === "y" || (key === "z" && event.shiftKey)) return done(editor.edits.redo());
    return key === "z" ? done(editor.edits.undo()) : false;
  }
  const isControl = focus.tagName === "BUTTON" || focus.tagName === "SELECT";
  if (key === " " && !isControl) return done(editor.togglePlay());
  if (focus === editor.parts.timeline && key in FRAMES) {
    if (event.altKey) return done(editor.edits.shiftInTime(Math.sign(FRAMES[key])));
    return done(editor.edits.scrub(editor.edits.frame + FRAMES[key]));
  }
  if (focus === editor.parts.scene3d || focus === editor.parts.plan) {
    if (event.shiftKey && key in TURNS) return done(editor.edits.turnKey(TURNS[key]));
    if (key in MOVES) return done(editor.edits.shiftKey(MOVES[key]));
  }
  if (focus.tagName === "SELECT" || event.altKey || !(key in ANYWHERE)) return false;
  return done(ANYWHERE[key](editor));
}

/** @param {unknown} _ @returns {true} */
function done(_) {
  return true;
}
