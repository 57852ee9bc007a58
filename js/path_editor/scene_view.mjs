// @ts-check
/**
 * The scene in 3D: the memory's points, the path, and the frusta of keyframes and of the current frame.
 *
 * Everything is in units of the path. three.js looks along -z with y up, so the whole world hangs in a group that turns
 * OpenCV axes over; matrices never change.
 *
 * @typedef {import("./camera_math.mjs").Matrix} Matrix
 * @typedef {import("./camera_math.mjs").Vector} Vector
 * @typedef {import("./editor.mjs").Shown} Shown
 * @typedef {{ select: (index: number) => void, drag: (index: number, position: Vector) => void, drop: () => void }} Handlers
 */
import * as three from "../vendor/three/three.module.min.mjs";
import { OrbitControls } from "../vendor/three/OrbitControls.mjs";
import { fromFlat, frustumCorners, positionOf } from "./camera_math.mjs";

/** @type {any} the vendored file has no types */
const THREE = three;

export const COLORS = { key: "#5ec8ae", now: "#f0a65a", chosen: "#ffffff", line: "#e2e4e9", paper: "#15171b" };
const PICK_PIXELS = 16;
const FAR = 1000;
const MAX_FRUSTA = 9; // beside the chosen one; more hide each other
const DRAW_MS = 14; // a picture while something moves; slow machines leave points out to keep to it
const REST_MS = 180; // after which all points are drawn

const POINT_VERTEX = `
  attribute float footprint;
  attribute vec3 tint;
  uniform float pixels;
  varying vec3 shade;
  void main() {
    vec4 place = modelViewMatrix * vec4(position, 1.0);
    gl_Position = projectionMatrix * place;
    gl_PointSize = clamp(pixels * footprint / -place.z, 1.5, 48.0);
    shade = tint;
  }`;
const POINT_FRAGMENT = "varying vec3 shade; void main() { gl_FragColor = vec4(shade, 1.0); }";

export class SceneView {
  /** @param {HTMLElement} frame that the canvas fills @param {Handlers} handlers */
  constructor(frame, handlers) {
    this.frame = frame;
    this.handlers = handlers;
    this.renderer = new THREE.WebGLRenderer({ antialias: true });
    this.renderer.setClearColor(COLORS.paper);
    this.canvas = this.renderer.domElement;
    frame.append(this.canvas);
    this.scene = new THREE.Scene();
    this.world = new THREE.Group();
    this.world.matrixAutoUpdate = false;
    this.world.matrix.makeScale(1, -1, -1);
    this.scene.add(this.world);
    this.camera = new THREE.PerspectiveCamera(50, 1, 0.005, FAR);
    this.controls = new OrbitControls(this.camera, this.canvas);
    this.controls.addEventListener("change", () => this.redraw());
    this.controls.addEventListener("start", () => (this.glass.visible = true));
    this.path = this.added(new THREE.Line(new THREE.BufferGeometry(), new THREE.LineBasicMaterial({ color: COLORS.line })));
    this.keys = this.added(new THREE.LineSegments(new THREE.BufferGeometry(), new THREE.LineBasicMaterial({ vertexColors: true })));
    this.dots = this.added(new THREE.Points(new THREE.BufferGeometry(), new THREE.PointsMaterial({ vertexColors: true, size: 7, sizeAttenuation: false })));
    this.now = this.added(new THREE.LineSegments(new THREE.BufferGeometry(), new THREE.LineBasicMaterial({ color: COLORS.now })));
    this.glass = this.added(new THREE.Mesh(new THREE.BufferGeometry(), new THREE.MeshBasicMaterial({
      color: COLORS.now, transparent: true, opacity: 0.16, side: THREE.DoubleSide, depthWrite: false })));
    this.pointMaterial = new THREE.ShaderMaterial({
      vertexShader: POINT_VERTEX, fragmentShader: POINT_FRAGMENT, uniforms: { pixels: { value: 1 } } });
    /** @type {any} */
    this.points = null;
    /** @type {Shown | null} */
    this.shown = null;
    this.dragged = -1;
    this.share = 1; // of the points that are drawn while something moves
    this.resizing = new ResizeObserver(() => this.resize());
    this.resizing.observe(frame);
    this.listen();
    this.lookFromBehind(1);
  }

  /** @param {any} object */
  added(object) {
    object.frustumCulled = false;
    this.world.add(object);
    return object;
  }

  /** @param {import("./server.mjs").Points | null} points in the world @param {number} scale from there to the path's units */
  setPoints(points, scale) {
    if (this.points) {
      this.world.remove(this.points);
      this.points.geometry.dispose();
      this.points = null;
    }
    if (points) {
      const geometry = new THREE.BufferGeometry();
      geometry.setAttribute("position", new THREE.BufferAttribute(points.positions, 3));
      geometry.setAttribute("footprint", new THREE.BufferAttribute(points.footprints, 1));
      geometry.setAttribute("tint", new THREE.BufferAttribute(points.colors, 3, true));
      this.points = this.added(new THREE.Points(geometry, this.pointMaterial));
    }
    this.setScale(scale);
  }

  /** @param {number} scale */
  setScale(scale) {
    this.points?.scale.setScalar(scale);
    this.redraw();
  }

  /** @param {Shown} shown */
  show(shown) {
    this.shown = shown;
    const { path, sampled, selected, frame, reach } = shown;
    setPositions(this.path, sampled ? sampled.cam2world.map((flat) => [flat[3], flat[7], flat[11]]) : []);
    const [lines, colors, dots, dotColors] = [[], [], [], []].map((list) => /** @type {any[]} */ (list));
    const every = Math.ceil((path.keyframes.length - 1) / MAX_FRUSTA);
    path.keyframes.forEach((key, index) => {
      const color = new THREE.Color(index === selected ? COLORS.chosen : COLORS.key).toArray();
      dots.push(positionOf(key.cam2world));
      dotColors.push(color);
      if (index % every && index !== selected) return;
      const edges = frustumEdges(key.cam2world, key.fov_degrees ?? shown.fov, shown.aspect, reach);
      lines.push(...edges);
      colors.push(...edges.map(() => color));
    });
    setPositions(this.keys, lines, colors);
    setPositions(this.dots, dots, dotColors);
    this.showNow(sampled, frame, shown);
    this.redraw();
  }

  /** @param {import("./server.mjs").Sampled | null} sampled @param {number} frame @param {Shown} shown */
  showNow(sampled, frame, { aspect, reach }) {
    const flat = sampled?.cam2world[frame];
    if (!sampled || !flat) return;
    const corners = frustumCorners(fromFlat(flat), sampled.fov_degrees[frame], aspect, 1.5 * reach);
    setPositions(this.now, frustumEdges(fromFlat(flat), sampled.fov_degrees[frame], aspect, 1.5 * reach));
    setPositions(this.glass, [0, 1, 2, 0, 2, 3].map((corner) => corners[corner]));
  }

  /** What the keyframes' frusta look like on the screen's graphics buffers: 16 points each. For tests. */
  drawnFrusta() {
    return Array.from(this.keys.geometry.attributes.position.array);
  }

  /** The camera-to-world matrix of this view, OpenCV axes. @returns {Matrix} */
  viewMatrix() {
    this.camera.updateMatrixWorld();
    const e = this.camera.matrixWorld.elements; // columns; both worlds and both cameras differ by diag(1, -1, -1)
    const flip = [1, -1, -1, 1];
    return flip.map((row, i) => flip.map((column, j) => row * column * e[4 * j + i]));
  }

  /** Look through a camera of the path. @param {Matrix} cam2world @param {number} fov horizontal @param {number} ahead to the pivot */
  lookThrough(cam2world, fov, ahead) {
    const place = (/** @type {number} */ distance) => positionOf(cam2world).map((value, i) => value + cam2world[i][2] * distance);
    const [eye, target] = [place(0), place(ahead)].map(([x, y, z]) => new THREE.Vector3(x, -y, -z));
    this.camera.position.copy(eye);
    this.controls.target.copy(target);
    this.horizontalFov = fov;
    this.glass.visible = false; // it would tint the whole view
    this.resize();
    this.controls.update();
  }

  /** Over the first camera's shoulder. @param {number} unit */
  lookFromBehind(unit) {
    this.camera.position.set(-0.62 * unit, 0.42 * unit, 0.6 * unit);
    this.controls.target.set(0.06 * unit, -0.04 * unit, -0.55 * unit);
    this.horizontalFov = 65;
    this.glass.visible = true;
    this.resize();
    this.controls.update();
  }

  resize() {
    const [width, height] = [this.frame.clientWidth, this.frame.clientHeight];
    if (!width || !height) return; // detached: the node is on a canvas that is not shown
    this.renderer.setPixelRatio(Math.min(2, window.devicePixelRatio));
    this.renderer.setSize(width, height);
    this.camera.aspect = width / height;
    // The frame of a camera that is looked through fits into this view, whatever its shape.
    const half = Math.tan(((this.horizontalFov ?? 55) * Math.PI) / 360) / Math.min(this.camera.aspect, this.shown?.aspect ?? 1.6);
    this.camera.fov = (2 * Math.atan(half) * 180) / Math.PI;
    this.camera.updateProjectionMatrix();
    this.redraw();
  }

  redraw() {
    if (this.isWaiting) return;
    this.isWaiting = true;
    clearTimeout(this.resting);
    requestAnimationFrame(() => {
      this.isWaiting = false;
      if (this.isDisposed || !this.frame.isConnected) return;
      const start = performance.now();
      this.draw(this.share);
      this.waitForPicture();
      this.share = Math.min(1, Math.max(0.02, this.share * Math.min(2, DRAW_MS / (performance.now() - start))));
      if (this.share < 1) this.resting = setTimeout(() => this.draw(1), REST_MS);
    });
  }

  /** @param {number} share of the points, which come in random order */
  draw(share) {
    if (this.isDisposed) return;
    const pixels = (this.renderer.domElement.height / 2) * this.camera.projectionMatrix.elements[5];
    this.pointMaterial.uniforms.pixels.value = (pixels * (this.points?.scale.x ?? 1)) / Math.sqrt(share);
    this.points?.geometry.setDrawRange(0, Math.ceil(share * this.points.geometry.attributes.position.count));
    this.renderer.render(this.scene, this.camera);
  }

  /** Drawing is only ordered when render() returns; reading a pixel waits for it. */
  waitForPicture() {
    const gl = this.renderer.getContext();
    gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
  }

  listen() {
    // In the capture phase and before OrbitControls, which would turn the view while a keyframe is dragged.
    this.frame.addEventListener("pointerdown", (event) => {
      const index = event.button === 0 ? this.keyAt(event) : -1;
      if (index < 0) return;
      this.handlers.select(index);
      this.controls.enabled = false;
      this.dragged = index;
      this.frame.setPointerCapture(event.pointerId);
    }, true);
    this.frame.addEventListener("pointermove", (event) => {
      if (this.dragged >= 0) this.handlers.drag(this.dragged, this.placeUnder(event, this.dragged));
      else if (!event.buttons) this.frame.style.cursor = this.keyAt(event) >= 0 ? "move" : "grab";
    });
    for (const name of ["pointerup", "pointercancel"]) {
      this.frame.addEventListener(name, () => {
        if (this.dragged < 0) return;
        this.dragged = -1;
        this.controls.enabled = true;
        this.handlers.drop();
      });
    }
  }

  /** In [-1, 1], y up; right also when the host has scaled the element. @param {PointerEvent} event */
  pointerAt(event) {
    const box = this.frame.getBoundingClientRect();
    return new THREE.Vector2((2 * (event.clientX - box.left)) / box.width - 1, 1 - (2 * (event.clientY - box.top)) / box.height);
  }

  /** @param {Vector} position */
  onScreen([x, y, z]) {
    return new THREE.Vector3(x, -y, -z).project(this.camera);
  }

  /** The keyframe under the pointer, or -1. @param {PointerEvent} event */
  keyAt(event) {
    const pointer = this.pointerAt(event);
    let [best, found] = [PICK_PIXELS, -1];
    this.shown?.path.keyframes.forEach((key, index) => {
      const { x, y, z } = this.onScreen(positionOf(key.cam2world));
      const away = Math.hypot(((x - pointer.x) / 2) * this.frame.clientWidth, ((y - pointer.y) / 2) * this.frame.clientHeight);
      if (z < 1 && (away < best || (away === best && index > found))) [best, found] = [away, index];
    });
    return found;
  }

  /** The place under the pointer at a keyframe's distance from this view. @param {PointerEvent} event @param {number} index @returns {Vector} */
  placeUnder(event, index) {
    const position = /** @type {Shown} */ (this.shown).path.keyframes[index].cam2world;
    const pointer = this.pointerAt(event);
    const place = new THREE.Vector3(pointer.x, pointer.y, this.onScreen(positionOf(position)).z).unproject(this.camera);
    return [place.x, -place.y, -place.z];
  }

  dispose() {
    this.isDisposed = true;
    clearTimeout(this.resting);
    this.resizing.disconnect();
    this.controls.dispose();
    this.setPoints(null, 1);
    this.renderer.dispose();
    this.renderer.forceContextLoss();
    this.canvas.remove();
  }
}

/** Pairs of ends: four edges from the camera, four around its picture, and a tick on top. */
function frustumEdges(/** @type {Matrix} */ cam2world, /** @type {number} */ fov, /** @type {number} */ aspect, /** @type {number} */ reach) {
  const eye = positionOf(cam2world);
  const corners = frustumCorners(cam2world, fov, aspect, reach);
  return corners.flatMap((corner, i) => [eye, corner, corner, corners[(i + 1) % 4]]);
}

/** @param {any} object @param {number[][]} positions @param {number[][]} [colors] */
function setPositions(object, positions, colors) {
  object.geometry.dispose();
  object.geometry = new THREE.BufferGeometry();
  object.geometry.setAttribute("position", new THREE.Float32BufferAttribute(positions.flat(), 3));
  if (colors) object.geometry.setAttribute("color", new THREE.Float32BufferAttribute(colors.flat(), 3));
}
