// @ts-check
/** The elements of the editor, without behaviour: toolbar, views, keyframe row, timeline, status line. */

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag @param {Record<string, string>} [attributes] @param {(Node | string)[]} [children]
 * @returns {HTMLElementTagNameMap[K]}
 */
export function element(tag, attributes = {}, children = []) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** @param {string} label @param {string} title @param {string} [kind] */
function button(label, title, kind = "") {
  return element("button", { type: "button", title, "aria-label": title, class: kind }, [label]);
}

/** @param {string} title @param {Record<string, string>} options label by value */
function choice(title, options) {
  const entries = Object.entries(options).map(([value, label]) => element("option", { value }, [label]));
  return element("select", { title, "aria-label": title }, entries);
}

/** @param {string} label @param {string} title @param {string} step */
function number(label, title, step) {
  const input = element("input", { type: "number", step, title, "aria-label": title });
  return { input, field: element("label", {}, [element("span", {}, [label]), input]) };
}

export function buildLayout() {
  const tools = {
    undo: button("↶", "Undo (Ctrl+Z)", "icon"),
    redo: button("↷", "Redo (Ctrl+Y)", "icon"),
    add: button("+ Key", "Add a keyframe at the current frame (K)"),
    fromView: button("Key from view", "Set the keyframe of the current frame from the 3D view (V)"),
    remove: button("Delete", "Delete the chosen keyframe (Del)"),
    through: button("Look through", "Look through the camera of the current frame (C); drag the view to leave it"),
    behind: button("Overview", "See the path from outside (O)"),
    draw: button("Draw", "Draw a path on the plan with the mouse (D)", "toggle"),
    look: choice("Where the camera looks on a drawn path", {
      ahead: "looks ahead", along: "looks along the path", centre: "looks at the middle" }),
    interpolation: choice("How the camera goes from keyframe to keyframe", {
      smooth: "smooth curve", linear: "straight lines", arc: "arcs" }),
    easing: choice("How the camera starts and stops over the whole path", {
      ease: "soft start and end", linear: "even speed", ease_in: "soft start", ease_out: "soft end" }),
    scene: choice("Whose memory is shown", {}),
    preset: button("Back to preset", "Forget the keyframes and use the preset above again"),
  };
  const numbers = {
    frame: number("frame", "Frame of the film that the chosen keyframe is at", "1"),
    x: number("right", "To the right of the first camera, in units of the path", "0.01"),
    y: number("up", "Above the first camera, in units of the path", "0.01"),
    z: number("forward", "In front of the first camera, in units of the path", "0.01"),
    pan: number("pan", "Degrees to the right", "1"),
    tilt: number("tilt", "Degrees upwards", "1"),
    roll: number("roll", "Degrees clockwise", "1"),
    fov: number("fov", "Field of view of the chosen keyframe; empty takes that of the scene", "1"),
  };
  const fovUnit = choice("Field of view in degrees (horizontal) or as focal length in mm (full frame)", { degrees: "°", mm: "mm" });
  const keyName = element("output", { class: "name" });
  const scene3d = element("div", {
    class: "scene", tabindex: "0", role: "application", "data-capture-wheel": "true",
    "aria-label": "Scene in 3D. Arrows move the chosen keyframe, Page Up and Down raise and lower it, Shift and arrows turn it.",
  });
  const plan = element("canvas", {
    tabindex: "0", role: "application", "data-capture-wheel": "true",
    "aria-label": "Plan from above. Arrows move the chosen keyframe, Shift and arrows turn it.",
  });
  const timeline = element("canvas", {
    class: "timeline", tabindex: "0", role: "slider",
    "aria-label": "Current frame. Arrows go frame by frame, comma and full stop from keyframe to keyframe, Alt and arrows move the chosen keyframe in time.",
  });
  const memory = element("img", { alt: "What the memory knows from the camera of the current frame", draggable: "false" });
  const memoryWords = element("figcaption");
  const play = button("▶", "Play (Space)", "icon");
  const [frameWords, status] = [element("output", { class: "frame" }), element("output", { class: "status", "aria-live": "polite" })];
  const { undo, redo, add, fromView, remove, through, behind, draw, look, interpolation, easing, scene, preset } = tools;
  const root = element("div", { class: "mirage-path-editor" }, [
    element("div", { class: "tools" }, [undo, redo, add, fromView, remove, through, behind, draw, look]),
    element("div", { class: "views" }, [
      scene3d,
      element("div", { class: "side" }, [
        element("figure", {}, [memory, memoryWords]),
        element("figure", { class: "plan" }, [plan, element("figcaption", {}, ["from above"])]),
      ]),
    ]),
    element("div", { class: "row" }, [keyName, ...Object.values(numbers).map((one) => one.field), fovUnit]),
    element("div", { class: "time" }, [play, timeline]),
    element("div", { class: "row foot" }, [frameWords, status]),
    element("div", { class: "tools low" }, [interpolation, easing, scene, preset]),
  ]);
  const inputs = Object.fromEntries(Object.entries(numbers).map(([name, one]) => [name, one.input]));
  return { root, tools, inputs, fovUnit, keyName, scene3d, plan, timeline, memory, memoryWords, play, frameWords, status };
}
