// @ts-check
/**
 * Puts the memory viewer on Inspect Memory and Edit Memory: a button that opens it inside the node. Without this file
 * both nodes work as they are: Inspect Memory shows its plan, Edit Memory's box is a text.
 */
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { addDoor, addStyle, widgetOf } from "./node_door.mjs";

const WORDS = {
  MirageInspectMemory: ["Look at the memory in 3D", "Close the 3D view"],
  MirageEditMemory: ["Draw the box in the scene", "Close the scene"],
};

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

/** @param {any} node @param {[string, string]} words */
function addViewer(node, words) {
  addStyle("mirage-path-editor-style", "./path_editor/path_editor.css");
  addDoor(node, {
    property: "mirage_memory_viewer_open",
    words,
    className: "mirage-path-door mirage-memory-door",
    size: [560, 400],
    widget: ["memory_viewer", "mirage_memory_viewer"],
    handle: "memoryViewer",
    load: async () => {
      const { MemoryViewer } = await import("./memory_viewer/viewer.mjs");
      return () => new MemoryViewer(hostOf(node));
    },
  });
}

app.registerExtension({
  name: "mirage.memoryViewer",
  nodeCreated(/** @type {any} */ node) {
    const words = /** @type {any} */ (WORDS)[node.comfyClass];
    if (words) addViewer(node, words);
  },
});
