// @ts-check
/**
 * The chosen keyframe in numbers.
 *
 * @typedef {import("./editor.mjs").Shown} Shown
 * @typedef {import("./path_state.mjs").Keyframe} Keyframe
 */
import { anglesOf, fovToMillimetres, fromAngles, millimetresToFov, positionOf } from "./camera_math.mjs";

export class KeyRow {
  /**
   * @param {Record<string, HTMLInputElement>} inputs @param {HTMLSelectElement} fovUnit @param {HTMLOutputElement} name
   * @param {{ change: (key: Partial<Keyframe>) => void, retime: (frame: number) => void }} handlers
   */
  constructor(inputs, fovUnit, name, handlers) {
    this.inputs = inputs;
    this.fovUnit = fovUnit;
    this.name = name;
    /** @type {Shown | null} */
    this.shown = null;
    /** The input that is being typed into; answers of the server must not overwrite it. @type {HTMLInputElement | null} */
    this.typing = null;
    for (const [field, input] of Object.entries(inputs)) {
      input.addEventListener("input", () => (this.typing = input));
      input.addEventListener("blur", () => (this.typing = null));
      input.addEventListener("change", () => {
        this.typing = null;
        if (!this.shown || this.shown.selected < 0) return;
        if (field === "frame") handlers.retime(input.valueAsNumber);
        else if (field === "fov") handlers.change({ fov_degrees: this.typedFov() });
        else handlers.change({ cam2world: this.typedCamera(field) });
      });
    }
    fovUnit.addEventListener("change", () => this.shown && this.show(this.shown));
  }

  /** @param {Shown} shown */
  show(shown) {
    if (shown.selected !== this.shown?.selected) this.typing = null;
    this.shown = shown;
    const { path, selected } = shown;
    const key = path.keyframes[selected];
    this.name.value = key ? `Key ${selected + 1} of ${path.keyframes.length}` : "no key chosen";
    const isFirst = selected === 0;
    const isEnd = isFirst || selected === path.keyframes.length - 1;
    for (const [field, input] of Object.entries(this.inputs)) {
      input.disabled = !key || (field === "frame" ? isEnd : field !== "fov" && isFirst);
      if (!key) input.value = "";
    }
    if (!key) return;
    const [x, y, z] = positionOf(key.cam2world);
    const values = { frame: shown.keyFrames[selected], x, y: -y, z, ...anglesOf(key.cam2world) };
    for (const [field, value] of Object.entries(values)) this.write(field, value, "xyz".includes(field) ? 3 : 1);
    const inUnit = (/** @type {number} */ fov) => (this.fovUnit.value === "mm" ? fovToMillimetres(fov) : fov);
    this.inputs.fov.placeholder = String(Number(inUnit(shown.fov).toFixed(1)));
    if (key.fov_degrees !== null) this.write("fov", inUnit(key.fov_degrees), 1);
    else if (this.inputs.fov !== this.typing) this.inputs.fov.value = "";
  }

  /** @param {string} field @param {number} value @param {number} digits */
  write(field, value, digits) {
    if (this.inputs[field] !== this.typing) this.inputs[field].value = String(Number(value.toFixed(digits)));
  }

  /** @returns {number | null} degrees; null for that of the scene */
  typedFov() {
    const typed = this.inputs.fov.valueAsNumber;
    if (!(typed > 0)) return null;
    const fov = this.fovUnit.value === "mm" ? millimetresToFov(typed) : typed;
    return Math.min(179, Math.max(1, fov));
  }

  /** The keyframe's camera with one number replaced; what was not typed keeps all its digits. @param {string} field */
  typedCamera(field) {
    const { path, selected } = /** @type {Shown} */ (this.shown);
    const { cam2world } = path.keyframes[selected];
    const typed = this.inputs[field].valueAsNumber;
    if (!Number.isFinite(typed)) return cam2world;
    const [x, y, z] = positionOf(cam2world);
    const place = { x, y: -y, z, ...anglesOf(cam2world), [field]: typed };
    if (!"xyz".includes(field)) return fromAngles(place, [x, y, z]);
    return cam2world.map((row, i) => (i < 3 ? [row[0], row[1], row[2], [place.x, -place.y, place.z][i]] : row));
  }
}
