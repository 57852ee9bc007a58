// @ts-check
/**
 * Frames from left to right: segments with their borders, keyframes, the current frame, and below what the preflight
 * says of every frame.
 *
 * @typedef {import("./editor.mjs").Shown} Shown
 * @typedef {{ select: (index: number) => void, scrub: (frame: number) => void, retime: (frame: number) => void,
 *   drop: () => void }} Handlers
 */
import { COLORS } from "./scene_view.mjs";

const SIDE = 12; // pixels left free on both sides
const TRACK = 32; // y of the keyframes
const STRIP = [46, 64]; // y of the preflight strip
const LEVELS = { green: "#4fa387", amber: "#dba24a", red: "#d9604f" };
const PICK = 8;

export class Timeline {
  /** @param {HTMLCanvasElement} canvas @param {Handlers} handlers */
  constructor(canvas, handlers) {
    this.canvas = canvas;
    this.handlers = handlers;
    this.context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    /** @type {Shown | null} */
    this.shown = null;
    this.grip = -2; // the keyframe that is dragged, -1 for the current frame, -2 for nothing
    this.resizing = new ResizeObserver(() => this.resize());
    this.resizing.observe(canvas);
    this.listen();
  }

  /** @param {Shown} shown */
  show(shown) {
    this.shown = shown;
    const { canvas } = this;
    canvas.setAttribute("aria-valuemin", "0");
    canvas.setAttribute("aria-valuemax", String(shown.frames - 1));
    canvas.setAttribute("aria-valuenow", String(shown.frame));
    const known = shown.checked?.known[shown.frame];
    const words = known === undefined ? "" : `, ${Math.round(100 * known)} % known`;
    canvas.setAttribute("aria-valuetext", `frame ${shown.frame + 1} of ${shown.frames}${words}`);
    this.redraw();
  }

  /** @param {number} frame */
  xOf(frame) {
    return SIDE + (frame / Math.max(1, (this.shown?.frames ?? 1) - 1)) * (this.canvas.clientWidth - 2 * SIDE);
  }

  /** @param {number} x */
  frameAt(x) {
    const last = (this.shown?.frames ?? 1) - 1;
    return Math.max(0, Math.min(last, ((x - SIDE) / (this.canvas.clientWidth - 2 * SIDE)) * last));
  }

  resize() {
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    if (!width || !height) return;
    this.ratio = Math.min(2, window.devicePixelRatio);
    [this.canvas.width, this.canvas.height] = [Math.round(width * this.ratio), Math.round(height * this.ratio)];
    this.redraw();
  }

  redraw() {
    if (this.isWaiting) return;
    this.isWaiting = true;
    requestAnimationFrame(() => {
      this.isWaiting = false;
      if (this.shown) this.draw(this.shown);
    });
  }

  /** @param {Shown} shown */
  draw(shown) {
    const { context } = this;
    const height = this.canvas.clientHeight;
    context.setTransform(this.ratio ?? 1, 0, 0, this.ratio ?? 1, 0, 0);
    context.clearRect(0, 0, this.canvas.clientWidth, height);
    context.font = "11px Inter, sans-serif";
    context.textBaseline = "middle";
    this.drawSegments(shown);
    this.drawStrip(shown);
    context.strokeStyle = "#ffffff44";
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(SIDE, TRACK);
    context.lineTo(this.xOf(shown.frames - 1), TRACK);
    context.stroke();
    shown.path.keyframes.forEach((_, index) => this.drawKey(shown, index));
    const x = this.xOf(shown.frame);
    context.fillStyle = COLORS.now;
    context.fillRect(x - 0.75, 16, 1.5, height - 18);
    context.beginPath();
    context.moveTo(x - 5, 14);
    context.lineTo(x + 5, 14);
    context.lineTo(x, 21);
    context.fill();
  }

  /** @param {Shown} shown */
  drawSegments(shown) {
    const { context } = this;
    (shown.sampled?.segments ?? []).forEach(([first, last], index) => {
      // A segment begins at the frame it shares with the one before.
      const [from, to] = [this.xOf(Math.max(0, first - (index ? 1 : 0))), this.xOf(last)];
      context.fillStyle = index % 2 ? "#ffffff12" : "#ffffff08";
      context.fillRect(from, 0, to - from, this.canvas.clientHeight);
      context.fillStyle = "#ffffff55";
      if (index) context.fillRect(from - 0.5, 0, 1, this.canvas.clientHeight);
      const words = to - from > 120 ? `segment ${index + 1}   ${first}–${last}` : String(index + 1);
      if (to - from > 18) context.fillText(words, from + 5, 8);
    });
  }

  /** @param {Shown} shown */
  drawStrip(shown) {
    const { context } = this;
    const levels = shown.checked?.levels;
    if (!levels || levels.length !== shown.frames) return;
    const step = Math.max(1, this.xOf(1) - this.xOf(0));
    levels.forEach((level, frame) => {
      const known = shown.checked?.known[frame] ?? 0;
      const tall = (STRIP[1] - STRIP[0]) * Math.max(0.18, known);
      context.fillStyle = LEVELS[level];
      context.fillRect(this.xOf(frame) - step / 2, STRIP[1] - tall, step + 0.5, tall);
    });
  }

  /** @param {Shown} shown @param {number} index */
  drawKey(shown, index) {
    const frame = shown.keyFrames[index];
    if (frame > shown.frames - 1 + 1e-6) return; // slower than 1, the film ends before
    const { context } = this;
    const [x, size] = [this.xOf(frame), index === shown.selected ? 6.5 : 5];
    context.fillStyle = index === shown.selected ? COLORS.chosen : COLORS.key;
    context.beginPath();
    context.moveTo(x, TRACK - size);
    context.lineTo(x + size, TRACK);
    context.lineTo(x, TRACK + size);
    context.lineTo(x - size, TRACK);
    context.fill();
  }

  /** @param {PointerEvent} event @returns {[number, number]} */
  pointerAt(event) {
    const box = this.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * this.canvas.clientWidth, ((event.clientY - box.top) / box.height) * this.canvas.clientHeight];
  }

  /** @param {number} x @param {number} y */
  keyAt(x, y) {
    if (!this.shown || Math.abs(y - TRACK) > PICK + 2) return -1;
    const near = (/** @type {number} */ frame) => Math.abs(this.xOf(frame) - x) <= PICK;
    if (near(this.shown.keyFrames[this.shown.selected])) return this.shown.selected;
    return this.shown.keyFrames.findLastIndex(near);
  }

  listen() {
    const { canvas, handlers } = this;
    canvas.addEventListener("pointerdown", (event) => {
      if (!this.shown || event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      const [x, y] = this.pointerAt(event);
      this.grip = this.keyAt(x, y);
      if (this.grip >= 0) handlers.select(this.grip);
      else handlers.scrub(Math.round(this.frameAt(x)));
    });
    canvas.addEventListener("pointermove", (event) => {
      const [x, y] = this.pointerAt(event);
      if (this.grip === -1) handlers.scrub(Math.round(this.frameAt(x)));
      else if (this.grip >= 0) handlers.retime(this.frameAt(x));
      else canvas.style.cursor = this.keyAt(x, y) >= 0 ? "ew-resize" : "pointer";
    });
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, () => {
        this.grip = -2;
        handlers.drop();
      });
    }
  }

  dispose() {
    this.resizing.disconnect();
  }
}
