// @ts-check
/**
 * Puts the memory viewer on Inspect Memory and Edit Memory: a button that opens it inside the node. Without this file
 * both nodes work as they are: Inspect Memory shows its plan, Edit Memory's box is a text.
 */
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const OPEN = "mirage_memory_viewer_open"; // node property, so that a saved workflow opens as it was
const WORDS = {
  MirageInspectMemory: ["Look at the memory in 3D", "Close the 3D view"],
  MirageEditMemory: ["Draw the box in the scene", "Close the scene"],
};
const DOOR_HEIGHT = 28;
const VIEWER_HEIGHT = 400;
const VIEWER_WIDTH = 560;

/** @param {any} node @param {string} name */
function widgetOf(node, name) {
  return node.widgets?.find((/** @type {any} */ widget) => widget.name === name);
}

/** What the viewer may know of the host and its node. @param {any} node */
function hostOf(node) {
  const isEdit = node.comfyClass === "MirageEditMemory";
  return {
    api,
    nodeId: () => String(node.id),
    color: () => widgetOf(node, "color")?.value ?? "preview",
    box: isEdit ? () => widgetOf(node, "rule.box")?.value ?? null : null,
    writeBox(/** @type {string} */ text) {
      const widget = widgetOf(node, "rule.box");
      if (!widget) return;
      widget.value = text;
      widget.callback?.(text);
      node.graph?.setDirtyCanvas(true, true);
    },
    remember: () => app.extensionManager.workflow?.activeWorkflow?.changeTracker?.captureCanvasState?.(),
  };
}

function addStyle() {
  if (document.getElementById("mirage-path-editor-style")) return;
  const href = new URL("./path_editor/path_editor.css", import.meta.url).href;
  document.head.append(Object.assign(document.createElement("link"), { id: "mirage-path-editor-style", rel: "stylesheet", href }));
}

/** @param {any} node @param {string[]} words */
function addViewer(node, [openWords, closeWords]) {
  const frame = document.createElement("div");
  const door = Object.assign(document.createElement("button"), { type: "button", className: "mirage-path-door mirage-memory-door" });
  frame.append(door);
  /** @type {any} */
  let viewer = null;
  const height = () => DOOR_HEIGHT + (node.properties[OPEN] ? VIEWER_HEIGHT : 0);
  const widget = node.addDOMWidget("memory_viewer", "mirage_memory_viewer", frame, {
    serialize: false, getValue: () => "", setValue() {}, getMinHeight: height, getMaxHeight: () => (node.properties[OPEN] ? 4000 : DOOR_HEIGHT) });
  widget.serialize = false;
  Object.assign(frame.style, { display: "flex", flexDirection: "column", gap: "4px" });

  async function show() {
    const isOpen = Boolean(node.properties[OPEN]);
    door.textContent = isOpen ? closeWords : openWords;
    door.setAttribute("aria-expanded", String(isOpen));
    if (!isOpen) {
      viewer?.dispose?.();
      viewer = null;
    } else if (!viewer) {
      viewer = "opening";
      const { MemoryViewer } = await import("./memory_viewer/viewer.mjs");
      if (!node.properties[OPEN]) return void (viewer = null);
      viewer = new MemoryViewer(hostOf(node));
      frame.append(viewer.root);
      /** @type {any} */ (frame).memoryViewer = viewer;
    }
  }

  door.addEventListener("click", async () => {
    const before = node.properties[OPEN];
    node.properties[OPEN] = before ? false : [...node.size];
    const [width, tall] = before || node.size;
    node.setSize(before ? [width, tall] : [Math.max(width, VIEWER_WIDTH), tall + VIEWER_HEIGHT]);
    await show();
    node.graph?.setDirtyCanvas(true, true);
  });
  const configured = node.onConfigure;
  node.onConfigure = function (/** @type {any[]} */ ...given) {
    configured?.apply(this, given);
    show();
  };
  const removed = node.onRemoved;
  node.onRemoved = function (/** @type {any[]} */ ...given) {
    removed?.apply(this, given);
    viewer?.dispose?.();
    viewer = null;
  };
  show();
}

app.registerExtension({
  name: "mirage.memoryViewer",
  nodeCreated(/** @type {any} */ node) {
    const words = /** @type {any} */ (WORDS)[node.comfyClass];
    if (!words) return;
    addStyle();
    addViewer(node, words);
  },
});
