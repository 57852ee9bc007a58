// @ts-check
/**
 * Puts the path editor on Camera Path: a button that opens it inside the node. The value stays the node's own text
 * "keyframes"; without this file the node works from that text and from its presets.
 */
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { addDoor, addStyle, widgetOf } from "./node_door.mjs";

const SETTINGS = ["preset", "amount", "out_move", "length", "speed", "easing", "fov", "width", "height", "fps", "keyframes"];

/** What the editor may know of the host and its node. @param {any} node */
function hostOf(node) {
  return {
    api,
    settings: () => Object.fromEntries(SETTINGS.map((name) => [name, widgetOf(node, name)?.value]).filter(([, value]) => value !== undefined)),
    write(/** @type {string} */ text) {
      const widget = widgetOf(node, "keyframes");
      widget.value = text;
      widget.callback?.(text);
      node.graph?.setDirtyCanvas(true, true);
    },
    remember: () => app.extensionManager.workflow?.activeWorkflow?.changeTracker?.captureCanvasState?.(),
    linked: () => (node.inputs ?? []).filter((/** @type {any} */ input) => input.link != null).map((/** @type {any} */ input) => input.name),
    fedNodes: () => (node.outputs?.[0]?.links ?? []).map((/** @type {any} */ link) => String(node.graph?.links.get(link)?.target_id)),
  };
}

/** @param {any} node */
function addEditor(node) {
  addStyle("mirage-path-editor-style", "./path_editor/path_editor.css");
  addDoor(node, {
    property: "mirage_path_editor_open",
    words: ["Edit path in the scene", "Close path editor"],
    className: "mirage-path-door",
    size: [760, 480],
    widget: ["path_editor", "mirage_path_editor"],
    handle: "pathEditor",
    load: async () => {
      const { PathEditor } = await import("./path_editor/editor.mjs");
      return () => new PathEditor(hostOf(node));
    },
    shown(isOpen) {
      // The editor shows what the text says. Nodes 2.0 would never show it again: it notes once what is hidden.
      widgetOf(node, "keyframes").hidden = isOpen && !(/** @type {any} */ (window).LiteGraph?.vueNodesMode);
    },
  });
}

app.registerExtension({
  name: "mirage.pathEditor",
  nodeCreated(/** @type {any} */ node) {
    if (node.comfyClass === "MirageCameraPath") addEditor(node);
  },
});
