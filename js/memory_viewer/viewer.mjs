// @ts-check
/**
 * The memory in 3D: its points, coloured by what is asked, with the film's first camera and the newest; for Edit Memory
 * also a box, drawn from above or typed. What the colours mean and which points there are comes from Python.
 *
 * @typedef {import("../path_editor/server.mjs").Scene} Scene
 * @typedef {import("../path_editor/server.mjs").Points} Points
 * @typedef {import("./box.mjs").Box} Box
 * @typedef {{ api: any, nodeId: () => string, color: () => string, box: (() => string | null) | null,
 *   writeBox: (text: string) => void, remember: () => void }} Host
 *   color: of the node; box: its text, null while the rule is another; without it nothing is edited
 */
import * as three from "../vendor/three/three.module.min.mjs";
import { fromFlat, frustumCorners, identity } from "../path_editor/camera_math.mjs";
import { element } from "../path_editor/layout.mjs";
import { SceneView } from "../path_editor/scene_view.mjs";
import { SceneServer, newestOnly } from "../path_editor/server.mjs";
import { edgesOf, extentOf, pointsIn, readBox, writeBox } from "./box.mjs";

/** @type {any} the vendored file has no types */
const THREE = three;
const COLORINGS = { preview: "as in the pictures", age: "by age", confidence: "by confidence", segment: "by segment", locked: "locked or free" };
const AXES = ["right", "down", "forward"];
const CHOSEN = [255, 200, 64];
const REACH = 0.12; // length of a drawn frustum, in median depths
const CEILING = 0.45; // median depths above the first camera; what is higher hides the room from above ...
const UNDER_TOP = 0.85; // ... and so does what is in the upper part of all that is above it
const NEAR = 0.005;
const ABOVE = 0.15; // radians from straight down
const LOOK_MS = 400; // how often the node's box is looked at

export class MemoryViewer {
  /** @param {Host} host */
  constructor(host) {
    this.host = host;
    this.server = new SceneServer(host.api);
    /** @type {Scene | null} */
    this.scene = null;
    /** @type {Points | null} */
    this.points = null;
    /** @type {Box | null} */
    this.box = null;
    this.boxText = "";
    this.chosen = 0;
    this.build();
    this.scene3d = new SceneView(this.parts.scene, { select() {}, drag() {}, drop() {} });
    this.cameras = this.scene3d.added(new THREE.LineSegments(new THREE.BufferGeometry(), new THREE.LineBasicMaterial({ color: "#5ec8ae" })));
    this.boxLines = this.scene3d.added(new THREE.LineSegments(new THREE.BufferGeometry(), new THREE.LineBasicMaterial({ color: "#ffc840" })));
    this.askPoints = newestOnly((scene, color) => this.server.points(scene, color, host.box ? "before" : "after"),
      (points) => this.takePoints(points), (error) => this.say(error.message));
    this.scene3d.controls.addEventListener("change", () => this.cutCeiling());
    this.listen();
    this.refresh();
    this.looking = setInterval(() => this.lookAtBox(), LOOK_MS);
  }

  build() {
    const entries = Object.entries(COLORINGS).map(([value, label]) => element("option", { value }, [label]));
    const color = element("select", { title: "What the colours mean", "aria-label": "What the colours mean" }, entries);
    color.value = this.host.color();
    const button = (/** @type {string} */ label, /** @type {string} */ title) => element("button", { type: "button", title, "aria-label": title }, [label]);
    const [above, behind, draw] = [button("From above", "Look straight down"), button("Overview", "See the scene from behind the first camera"),
      button("Draw box", "Drag a box with the mouse, from above")];
    const numbers = AXES.flatMap((axis) => ["from", "to"].map((end) => element("input", {
      type: "number", step: "0.05", title: `${axis}, ${end}, in world units`, "aria-label": `${axis} ${end}` })));
    const fields = AXES.map((axis, i) => element("label", {}, [element("span", {}, [axis]), numbers[2 * i], "–", numbers[2 * i + 1]]));
    const row = element("div", { class: "row box" }, fields);
    const scene = element("div", { class: "scene", tabindex: "0", "data-capture-wheel": "true", "aria-label": "The memory in 3D. Drag turns the view, the wheel goes nearer." });
    const status = element("output", { class: "status", "aria-live": "polite" });
    this.root = element("div", { class: "mirage-path-editor mirage-memory-viewer" }, [
      element("div", { class: "tools" }, [color, above, behind, ...(this.host.box ? [draw] : [])]),
      element("div", { class: "views" }, [scene]),
      ...(this.host.box ? [row] : []),
      element("div", { class: "row foot" }, [status]),
    ]);
    this.parts = { color, above, behind, draw, numbers, row, scene, status };
  }

  /** The scene of this node, as the server has it now. */
  async refresh() {
    try {
      const scenes = await this.server.scenes();
      const id = this.host.nodeId();
      this.scene = scenes.find((one) => one.node === id) ?? scenes.find((one) => one.node.split(":").pop() === id) ?? null;
    } catch (error) {
      return this.say(/** @type {Error} */ (error).message);
    }
    if (this.isDisposed) return;
    if (!this.scene) return this.say("Run the workflow once; this node then shows its memory here.");
    this.askPoints(this.scene.node, this.parts.color.value);
  }

  /** @param {Points} points */
  takePoints(points) {
    if (this.isDisposed || !this.scene) return;
    const isFirst = !this.points;
    this.points = points;
    this.plain = points.colors.slice();
    this.extent = extentOf(points.positions);
    this.scale = 1 / this.scene.unit_length;
    this.aspect = this.scene.image_size[1] / this.scene.image_size[0];
    this.scene3d.setPoints(points, this.scale);
    const corners = [identity(), fromFlat(this.scene.here)].flatMap((cam2world, index) => this.frustum(cam2world, index ? 1.5 : 1));
    setPositions(this.cameras, corners);
    if (isFirst) this.overview();
    this.boxText = "\0"; // drawn again
    this.lookAtBox();
    this.tell();
  }

  /** @param {number[][]} cam2world in the world @param {number} size */
  frustum(cam2world, size) {
    const scale = /** @type {number} */ (this.scale);
    const scaled = cam2world.map((row, i) => (i < 3 ? [row[0], row[1], row[2], row[3] * scale] : row));
    const corners = frustumCorners(scaled, /** @type {Scene} */ (this.scene).fov_degrees, /** @type {number} */ (this.aspect), size * REACH);
    const eye = [0, 1, 2].map((i) => scaled[i][3]);
    return corners.flatMap((corner, i) => [eye, corner, corner, corners[(i + 1) % 4]]);
  }

  overview() {
    this.isAbove = false;
    this.scene3d.lookFromBehind(1);
  }

  fromAbove() {
    const { low, high } = /** @type {Box} */ (this.extent);
    const scale = /** @type {number} */ (this.scale);
    const [x, z] = [(scale * (low[0] + high[0])) / 2, (scale * (low[2] + high[2])) / 2];
    const width = scale * Math.max(high[0] - low[0], high[2] - low[2], 0.1);
    const top = this.ceiling();
    this.isAbove = true;
    this.scene3d.camera.position.set(x, top + 1.1 * width, -z + 0.001 * width); // not quite straight: up has to stay up
    this.scene3d.controls.target.set(x, top, -z);
    this.scene3d.horizontalFov = 55;
    this.scene3d.glass.visible = false;
    this.scene3d.resize();
    this.scene3d.controls.update();
  }

  /** Up to where the scene is seen from above, in median depths above the first camera. */
  ceiling() {
    const top = -(this.scale ?? 1) * /** @type {Box} */ (this.extent).low[1];
    return top > 0 ? Math.min(CEILING, UNDER_TOP * top) : top;
  }

  /** From above the ceiling is cut away, however near the view is. */
  cutCeiling() {
    const { camera, controls } = this.scene3d;
    this.isAbove &&= controls.getPolarAngle() < ABOVE;
    camera.near = this.isAbove ? Math.max(NEAR, camera.position.y - this.ceiling()) : NEAR;
    camera.updateProjectionMatrix();
  }

  lookAtBox() {
    if (!this.host.box) return;
    const text = this.host.box();
    const signature = text ?? "\0none";
    if (signature === this.boxText) return;
    this.boxText = signature;
    this.box = text === null ? null : readBox(text);
    this.parts.row.style.display = this.parts.draw.style.display = text === null ? "none" : "";
    this.showBox();
  }

  showBox() {
    const scale = this.scale ?? 1;
    setPositions(this.boxLines, this.box ? edgesOf(this.box).map((corner) => corner.map((value) => value * scale)) : []);
    const { numbers } = this.parts;
    numbers.forEach((input, i) => {
      if (this.box && document.activeElement !== input) input.value = String(Number((i % 2 ? this.box.high : this.box.low)[i >> 1].toPrecision(5)));
    });
    this.tint();
    this.scene3d.redraw();
  }

  /** Points in the box shine. */
  tint() {
    if (!this.points || !this.plain) return;
    const colors = this.points.colors;
    colors.set(this.plain);
    this.chosen = 0;
    if (this.box) {
      pointsIn(this.points.positions, this.box).forEach((isIn, i) => {
        if (!isIn) return;
        this.chosen++;
        for (let c = 0; c < 3; c++) colors[3 * i + c] = 0.25 * colors[3 * i + c] + 0.75 * CHOSEN[c];
      });
    }
    this.scene3d.points.geometry.attributes.tint.needsUpdate = true;
    this.tell();
  }

  tell() {
    if (!this.scene || !this.points) return;
    const shown = this.points.count.toLocaleString("en");
    const all = this.scene.points.toLocaleString("en");
    const what = this.host.box ? "before this edit" : `after segment ${this.scene.segments_done}`;
    const box = this.host.box && this.box ? `; ${this.chosen.toLocaleString("en")} of those shown are in the box` : "";
    this.say(this.host.box ? `${shown} points shown, ${what}${box}` : `${shown} of ${all} points shown, ${what}`);
  }

  /** @param {string} words */
  say(words) {
    this.parts.status.textContent = words;
  }

  /** @param {Box} box */
  change(box) {
    this.boxText = writeBox(box);
    this.box = readBox(this.boxText);
    this.host.writeBox(this.boxText);
    this.showBox();
  }

  listen() {
    const { color, above, behind, draw, numbers, scene } = this.parts;
    color.addEventListener("change", () => this.scene && this.askPoints(this.scene.node, color.value));
    above.addEventListener("click", () => this.points && this.fromAbove());
    behind.addEventListener("click", () => this.overview());
    draw.addEventListener("click", () => this.setDrawing(draw.getAttribute("aria-pressed") !== "true"));
    numbers.forEach((input) => input.addEventListener("change", () => {
      const values = numbers.map((one) => Number(one.value));
      const box = readBox([0, 2, 4, 1, 3, 5].map((i) => values[i]).join(" "));
      if (box) this.change(box);
      this.host.remember();
    }));
    // In the capture phase, before OrbitControls turns the view.
    scene.addEventListener("pointerdown", (event) => {
      if (!this.isDrawing || event.button !== 0) return;
      event.stopPropagation();
      this.start = this.placeUnder(event);
      scene.setPointerCapture(event.pointerId);
    }, true);
    scene.addEventListener("pointermove", (event) => this.start && this.drawTo(this.placeUnder(event)));
    for (const name of ["pointerup", "pointercancel"]) {
      scene.addEventListener(name, () => {
        if (!this.start) return;
        this.start = null;
        this.setDrawing(false);
        this.host.remember();
      });
    }
    for (const name of ["pointerdown", "pointermove", "wheel", "contextmenu", "dblclick"]) {
      this.root.addEventListener(name, (event) => event.stopPropagation()); // otherwise the node or the canvas moves too
    }
    this.root.addEventListener("keydown", (event) => event.stopPropagation()); // Delete would delete the node
    this.onScene = () => this.refresh();
    this.host.api.addEventListener("mirage.scene", this.onScene);
  }

  /** @param {boolean} isDrawing */
  setDrawing(isDrawing) {
    this.isDrawing = isDrawing && Boolean(this.points);
    this.parts.draw.setAttribute("aria-pressed", String(this.isDrawing));
    this.parts.scene.style.cursor = this.isDrawing ? "crosshair" : "";
    this.scene3d.controls.enabled = !this.isDrawing;
    if (this.isDrawing) this.fromAbove();
  }

  /** The place under the pointer at half the box's height, right and forward in the world. @param {PointerEvent} event */
  placeUnder(event) {
    const { low, high } = this.box ?? /** @type {Box} */ (this.extent);
    const scale = /** @type {number} */ (this.scale);
    const ray = new THREE.Raycaster();
    this.scene3d.camera.updateMatrixWorld();
    ray.setFromCamera(this.scene3d.pointerAt(event), this.scene3d.camera);
    const height = (-scale * (low[1] + high[1])) / 2;
    const place = ray.ray.intersectPlane(new THREE.Plane(new THREE.Vector3(0, 1, 0), -height), new THREE.Vector3());
    return place && [place.x / scale, -place.z / scale];
  }

  /** @param {number[] | null} end */
  drawTo(end) {
    if (!end || !this.start) return;
    if (!this.hasDrawn || !this.box) this.box = this.shownExtent();
    const { low, high } = this.box;
    this.hasDrawn = true;
    const [a, b] = [this.start, end];
    this.change({
      low: [Math.min(a[0], b[0]), low[1], Math.min(a[1], b[1])],
      high: [Math.max(a[0], b[0]), high[1], Math.max(a[1], b[1])],
    });
  }

  /** The whole height of what is seen from above. @returns {Box} */
  shownExtent() {
    const { low, high } = /** @type {Box} */ (this.extent);
    return { low: [low[0], -this.ceiling() / /** @type {number} */ (this.scale), low[2]], high };
  }

  dispose() {
    this.isDisposed = true;
    clearInterval(this.looking);
    if (this.onScene) this.host.api.removeEventListener("mirage.scene", this.onScene);
    this.scene3d.dispose();
    this.root.remove();
  }
}

/** @param {any} object @param {number[][]} positions */
function setPositions(object, positions) {
  object.geometry.dispose();
  object.geometry = new THREE.BufferGeometry();
  object.geometry.setAttribute("position", new THREE.Float32BufferAttribute(positions.flat(), 3));
}
