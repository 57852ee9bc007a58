// @ts-check
/**
 * The scene from above: forward of the first camera is up, its right is right. Keyframes are moved and turned here, and
 * paths are drawn by hand.
 *
 * @typedef {import("./editor.mjs").Shown} Shown
 * @typedef {import("./strokes.mjs").Spot} Spot
 * @typedef {{ select: (index: number) => void, move: (index: number, spot: Spot) => void,
 *   aim: (index: number, pan: number) => void, drop: () => void, draw: (spots: Spot[]) => void }} Handlers
 */
import { anglesOf, positionOf } from "./camera_math.mjs";
import { COLORS } from "./scene_view.mjs";

const CEILING = -0.45; // in path units of median depths: what is higher above the camera would hide the room
const HANDLE = 26; // pixels from a keyframe to the dot that turns it
const PICK = 11;

export class PlanView {
  /** @param {HTMLCanvasElement} canvas @param {Handlers} handlers */
  constructor(canvas, handlers) {
    this.canvas = canvas;
    this.handlers = handlers;
    this.context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    this.cloud = document.createElement("canvas");
    /** @type {import("./server.mjs").Points | null} */
    this.points = null;
    this.pointScale = 1;
    /** @type {Spot} */
    this.middle = [0, 0.6];
    this.zoom = 90; // pixels per unit
    this.isDrawing = false; // whether the pointer draws a path
    /** @type {Spot[] | null} */
    this.stroke = null;
    /** @type {{ kind: "move" | "aim" | "pan", index: number } | null} */
    this.grip = null;
    /** @type {Shown | null} */
    this.shown = null;
    this.resizing = new ResizeObserver(() => this.resize());
    this.resizing.observe(canvas);
    this.listen();
  }

  /** @param {import("./server.mjs").Points | null} points @param {number} scale */
  setPoints(points, scale) {
    this.points = points;
    this.pointScale = scale;
    this.drawCloud();
  }

  /** @param {Shown} shown */
  show(shown) {
    this.shown = shown;
    this.redraw();
  }

  /** Show the camera, the path and what lies ahead. @param {number} unit */
  fit(unit) {
    const spots = [[0, 0], [0, 1.2 * unit], ...(this.shown?.sampled?.cam2world ?? []).map((flat) => [flat[3], flat[11]])];
    const [xs, zs] = [0, 1].map((axis) => spots.map((spot) => spot[axis]));
    const span = (/** @type {number[]} */ values) => Math.max(...values) - Math.min(...values);
    const middle = (/** @type {number[]} */ values) => (Math.max(...values) + Math.min(...values)) / 2;
    this.middle = [middle(xs), middle(zs)];
    const room = Math.min(this.canvas.clientWidth / (span(xs) + 0.8 * unit), this.canvas.clientHeight / (span(zs) + 0.4 * unit));
    this.zoom = room || 90;
    this.drawCloud();
  }

  /** @param {Spot} spot @returns {Spot} in pixels of the canvas's style */
  toScreen([x, z]) {
    return [this.canvas.clientWidth / 2 + (x - this.middle[0]) * this.zoom, this.canvas.clientHeight / 2 - (z - this.middle[1]) * this.zoom];
  }

  /** @param {Spot} pixel @returns {Spot} */
  fromScreen([x, y]) {
    return [(x - this.canvas.clientWidth / 2) / this.zoom + this.middle[0], (this.canvas.clientHeight / 2 - y) / this.zoom + this.middle[1]];
  }

  resize() {
    const ratio = Math.min(2, window.devicePixelRatio);
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    if (!width || !height) return;
    this.ratio = ratio;
    [this.canvas.width, this.canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    this.drawCloud();
  }

  /** The points once per view into a picture of their own: 200 000 take some milliseconds. */
  drawCloud() {
    const [width, height] = [this.canvas.width, this.canvas.height];
    if (!width || !height) return;
    [this.cloud.width, this.cloud.height] = [width, height];
    const context = /** @type {CanvasRenderingContext2D} */ (this.cloud.getContext("2d"));
    const picture = context.createImageData(width, height);
    const pixels = new Uint32Array(picture.data.buffer);
    const heights = new Float32Array(width * height).fill(Infinity);
    const { positions, footprints, colors, count } = this.points ?? { positions: [], footprints: [], colors: [], count: 0 };
    const [scale, zoom] = [this.pointScale, this.zoom * (this.ratio ?? 1)];
    const [left, top] = [width / 2 - this.middle[0] * zoom, height / 2 + this.middle[1] * zoom];
    for (let i = 0; i < count; i++) {
      const y = positions[3 * i + 1] * scale;
      if (y < CEILING) continue;
      const half = Math.min(8, Math.max(1, footprints[i] * scale * zoom)) / 2;
      const [x, z] = [left + positions[3 * i] * scale * zoom, top - positions[3 * i + 2] * scale * zoom];
      const color = 0xff000000 | (colors[3 * i + 2] << 16) | (colors[3 * i + 1] << 8) | colors[3 * i];
      for (let row = Math.max(0, Math.round(z - half)); row < Math.min(height, Math.round(z + half)); row++) {
        for (let column = Math.max(0, Math.round(x - half)); column < Math.min(width, Math.round(x + half)); column++) {
          const at = row * width + column;
          if (y >= heights[at]) continue; // y is down: the highest below the ceiling shows
          heights[at] = y;
          pixels[at] = color;
        }
      }
    }
    context.putImageData(picture, 0, 0);
    this.redraw();
  }

  redraw() {
    if (this.isWaiting) return;
    this.isWaiting = true;
    requestAnimationFrame(() => {
      this.isWaiting = false;
      this.draw();
    });
  }

  draw() {
    const { context, shown } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = COLORS.paper;
    context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    context.globalAlpha = 0.75;
    context.drawImage(this.cloud, 0, 0);
    context.globalAlpha = 1;
    context.scale(this.ratio ?? 1, this.ratio ?? 1);
    if (!shown) return;
    const { sampled, frame } = shown;
    if (sampled) {
      this.line(sampled.cam2world.map((flat) => [flat[3], flat[11]]), COLORS.line, 1.5);
      const flat = sampled.cam2world[frame];
      this.wedge([flat[3], flat[11]], Math.atan2(flat[2], flat[10]), sampled.fov_degrees[frame]);
    }
    shown.path.keyframes.forEach((_, index) => this.drawKey(index));
    if (this.stroke) this.line(this.stroke, COLORS.now, 2);
  }

  /** @param {number} index */
  drawKey(index) {
    const { context } = this;
    const isChosen = index === this.shown?.selected;
    const [[x, y], [hx, hy]] = [this.keySpot(index), this.handleSpot(index)];
    context.strokeStyle = context.fillStyle = isChosen ? COLORS.chosen : COLORS.key;
    context.lineWidth = isChosen ? 2 : 1.2;
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(hx, hy);
    context.stroke();
    for (const [cx, cy, radius] of [[x, y, isChosen ? 5 : 4], ...(isChosen ? [[hx, hy, 3.5]] : [])]) {
      context.beginPath();
      context.arc(cx, cy, radius, 0, 2 * Math.PI);
      context.fill();
    }
  }

  /** @param {Spot[]} spots @param {string} color @param {number} width */
  line(spots, color, width) {
    const { context } = this;
    context.strokeStyle = color;
    context.lineWidth = width;
    context.beginPath();
    spots.forEach((spot) => context.lineTo(...this.toScreen(spot)));
    context.stroke();
  }

  /** @param {Spot} spot @param {number} heading radians from forward to the right @param {number} fov */
  wedge(spot, heading, fov) {
    const { context } = this;
    const [x, y] = this.toScreen(spot);
    const half = (fov * Math.PI) / 360;
    context.fillStyle = COLORS.now + "44";
    context.strokeStyle = COLORS.now;
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(x, y);
    context.arc(x, y, 46, heading - half - Math.PI / 2, heading + half - Math.PI / 2);
    context.closePath();
    context.fill();
    context.stroke();
  }

  /** @param {number} index @returns {Spot} */
  keySpot(index) {
    const [x, , z] = positionOf(/** @type {Shown} */ (this.shown).path.keyframes[index].cam2world);
    return this.toScreen([x, z]);
  }

  /** @param {number} index @returns {Spot} */
  handleSpot(index) {
    const [x, y] = this.keySpot(index);
    const pan = (anglesOf(/** @type {Shown} */ (this.shown).path.keyframes[index].cam2world).pan * Math.PI) / 180;
    const length = index === this.shown?.selected ? HANDLE : HANDLE / 2;
    return [x + length * Math.sin(pan), y - length * Math.cos(pan)];
  }

  /** In pixels of the canvas's style, also when the host has scaled it. @param {MouseEvent} event @returns {Spot} */
  pointerAt(event) {
    const box = this.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * this.canvas.clientWidth, ((event.clientY - box.top) / box.height) * this.canvas.clientHeight];
  }

  /** @param {Spot} pixel @returns {{ kind: "move" | "aim" | "pan", index: number }} */
  gripAt(pixel) {
    const near = (/** @type {Spot} */ spot) => Math.hypot(spot[0] - pixel[0], spot[1] - pixel[1]) < PICK;
    const { path, selected } = /** @type {Shown} */ (this.shown);
    if (selected > 0 && selected < path.keyframes.length && near(this.handleSpot(selected))) return { kind: "aim", index: selected };
    // Of keyframes on one spot the chosen one is taken, else the last.
    if (path.keyframes[selected] && near(this.keySpot(selected))) return { kind: "move", index: selected };
    const index = path.keyframes.findLastIndex((_, i) => near(this.keySpot(i)));
    return index < 0 ? { kind: "pan", index } : { kind: "move", index };
  }

  listen() {
    const { canvas, handlers } = this;
    canvas.addEventListener("pointerdown", (event) => {
      if (!this.shown) return;
      canvas.setPointerCapture(event.pointerId);
      const pixel = this.pointerAt(event);
      if (this.isDrawing && event.button === 0) this.stroke = [this.fromScreen(pixel)];
      else this.grip = event.button === 0 ? this.gripAt(pixel) : { kind: "pan", index: -1 };
      this.last = pixel;
      if (this.grip && this.grip.index >= 0) handlers.select(this.grip.index);
    });
    canvas.addEventListener("pointermove", (event) => this.drag(this.pointerAt(event)));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, () => {
        const drawn = this.stroke;
        [this.stroke, this.grip] = [null, null];
        if (drawn) handlers.draw(drawn);
        else handlers.drop();
        this.redraw();
      });
    }
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const pixel = this.pointerAt(event);
      const before = this.fromScreen(pixel);
      this.zoom = Math.min(5000, Math.max(2, this.zoom * Math.exp(-event.deltaY * 0.0015)));
      const after = this.fromScreen(pixel);
      this.middle = [this.middle[0] + before[0] - after[0], this.middle[1] + before[1] - after[1]];
      this.drawCloud();
    }, { passive: false });
  }

  /** @param {Spot} pixel */
  drag(pixel) {
    if (this.stroke) {
      this.stroke.push(this.fromScreen(pixel));
      this.redraw();
    } else if (this.grip?.kind === "pan") {
      const last = /** @type {Spot} */ (this.last);
      this.middle = [this.middle[0] - (pixel[0] - last[0]) / this.zoom, this.middle[1] + (pixel[1] - last[1]) / this.zoom];
      this.drawCloud();
    } else if (this.grip?.kind === "aim") {
      const [x, y] = this.keySpot(this.grip.index);
      this.handlers.aim(this.grip.index, (Math.atan2(pixel[0] - x, y - pixel[1]) * 180) / Math.PI);
    } else if (this.grip) {
      this.handlers.move(this.grip.index, this.fromScreen(pixel));
    }
    this.last = pixel;
  }

  dispose() {
    this.resizing.disconnect();
  }
}
