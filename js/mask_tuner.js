// @ts-check
/**
 * The widget "tuning" of Dynamic/Sky Mask: plain JSON, edited by a tuner that opens inside the node. Without this file
 * the node works with the JSON it is given, or with the defaults.
 */
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const OPEN = "mirage_mask_tuner_open"; // node property, so that a saved workflow opens as it was
const DOOR_HEIGHT = 28;
const TUNER_HEIGHT = 620;
const TUNER_WIDTH = 480;

function addStyle() {
  if (document.getElementById("mirage-mask-tuner-style")) return;
  const href = new URL("./mask_tuner/mask_tuner.css", import.meta.url).href;
  document.head.append(Object.assign(document.createElement("link"), { id: "mirage-mask-tuner-style", rel: "stylesheet", href }));
}

/** @param {any} value */
function plain(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? structuredClone(value) : {};
}

/** @param {any} node @param {string} name @param {any} given of the schema: [type, options] */
function addTuner(node, name, given) {
  addStyle();
  let value = plain(given?.[1]?.default);
  /** @type {any} */
  let tuner = null;
  const frame = document.createElement("div");
  const door = Object.assign(document.createElement("button"), { type: "button", className: "mirage-mask-door" });
  frame.append(door);
  Object.assign(frame.style, { display: "flex", flexDirection: "column", gap: "4px", height: "100%" });
  const isOpen = () => Boolean(node.properties?.[OPEN]);
  const height = () => DOOR_HEIGHT + (isOpen() ? TUNER_HEIGHT : 0);
  const widget = node.addDOMWidget(name, "MIRAGE_MASK_RULES", frame, {
    getValue: () => value,
    setValue(/** @type {any} */ other) {
      value = plain(other);
      tuner?.takeValue?.();
    },
    getMinHeight: height,
    getMaxHeight: () => (isOpen() ? 4000 : DOOR_HEIGHT),
  });
  const host = {
    api,
    id: () => String(node.id),
    tuning: () => value,
    write(/** @type {any} */ tuning) {
      value = tuning;
      widget.callback?.(value);
      node.graph?.setDirtyCanvas(true, true);
    },
    remember: () => app.extensionManager.workflow?.activeWorkflow?.changeTracker?.captureCanvasState?.(),
  };

  async function show() {
    door.textContent = isOpen() ? "Close mask tuner" : "Tune the mask";
    door.setAttribute("aria-expanded", String(isOpen()));
    if (!isOpen()) {
      tuner?.dispose?.();
      tuner = null;
    } else if (!tuner) {
      tuner = "opening";
      const { MaskTuner } = await import("./mask_tuner/tuner.mjs");
      if (!isOpen()) return void (tuner = null);
      tuner = new MaskTuner(host);
      frame.append(tuner.root);
      /** @type {any} */ (frame).maskTuner = tuner;
    }
  }

  door.addEventListener("click", async () => {
    const before = node.properties[OPEN];
    node.properties[OPEN] = before ? false : [...node.size];
    const [width, tall] = before || node.size;
    node.setSize(before ? [width, tall] : [Math.max(width, TUNER_WIDTH), tall + TUNER_HEIGHT]);
    await show();
    node.graph?.setDirtyCanvas(true, true);
  });
  const configured = node.onConfigure;
  node.onConfigure = function (/** @type {any[]} */ ...configuration) {
    configured?.apply(this, configuration);
    show();
  };
  const removed = node.onRemoved;
  node.onRemoved = function (/** @type {any[]} */ ...removal) {
    removed?.apply(this, removal);
    tuner?.dispose?.();
    tuner = null;
  };
  show();
  return { widget };
}

app.registerExtension({
  name: "mirage.maskTuner",
  getCustomWidgets: () => ({ MIRAGE_MASK_RULES: addTuner }),
});
