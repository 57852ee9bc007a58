// @ts-check
/**
 * The widget "tuning" of Dynamic/Sky Mask: plain JSON, edited by a tuner that opens inside the node. Without this file
 * the node works with the JSON it is given, or with the defaults.
 */
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { addDoor, addStyle } from "./node_door.mjs";

/** @param {any} value */
function plain(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? structuredClone(value) : {};
}

/** @param {any} node @param {string} name @param {any} given of the schema: [type, options] */
function addTuner(node, name, given) {
  addStyle("mirage-mask-tuner-style", "./mask_tuner/mask_tuner.css");
  let value = plain(given?.[1]?.default);
  /** @type {ReturnType<typeof addDoor> | undefined} */
  let door;
  const host = {
    api,
    id: () => String(node.id),
    tuning: () => value,
    write(/** @type {any} */ tuning) {
      value = tuning;
      door?.widget.callback?.(value);
      node.graph?.setDirtyCanvas(true, true);
    },
    remember: () => app.extensionManager.workflow?.activeWorkflow?.changeTracker?.captureCanvasState?.(),
  };
  door = addDoor(node, {
    property: "mirage_mask_tuner_open",
    words: ["Tune the mask", "Close mask tuner"],
    className: "mirage-mask-door",
    size: [480, 620],
    widget: [name, "MIRAGE_MASK_RULES"],
    handle: "maskTuner",
    value: {
      getValue: () => value,
      setValue(/** @type {any} */ other) {
        value = plain(other);
        door?.view()?.takeValue?.();
      },
    },
    load: async () => {
      const { MaskTuner } = await import("./mask_tuner/tuner.mjs");
      return () => new MaskTuner(host);
    },
  });
  return { widget: door.widget };
}

app.registerExtension({
  name: "mirage.maskTuner",
  getCustomWidgets: () => ({ MIRAGE_MASK_RULES: addTuner }),
});
