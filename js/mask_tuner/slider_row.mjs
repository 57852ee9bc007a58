// @ts-check
/** One setting: its name, a slider, and the number to type. */

/** @param {string} tag @param {string} name of its class @param {Record<string, any>} [given] @returns {any} */
export function made(tag, name, given = {}) {
  const element = Object.assign(document.createElement(tag), given);
  if (name) element.className = name;
  return element;
}

/**
 * @param {string} name @param {string} label @param {import("./rules_state.mjs").Limit} limit
 * @param {(value: number, isDone: boolean) => void} change
 */
export function sliderRow(name, label, limit, change) {
  const root = made("label", "line", { title: limit.tooltip });
  const bounds = { min: String(limit.min), max: String(limit.max), step: String(limit.step) };
  const slider = made("input", "slider", { type: "range", ...bounds, ariaLabel: label });
  const number = made("input", "number", { type: "number", ...bounds, ariaLabel: `${label}, number` });
  slider.dataset.setting = number.dataset.setting = name;
  slider.addEventListener("input", () => change(Number(slider.value), false));
  slider.addEventListener("change", () => change(Number(slider.value), true));
  number.addEventListener("change", () => {
    if (number.value !== "" && Number.isFinite(Number(number.value))) change(Number(number.value), true);
  });
  root.append(made("span", "label", { textContent: label }), slider, number);
  return {
    root,
    /** @param {number} value */
    show(value) {
      slider.value = String(value);
      if (document.activeElement !== number || Number(number.value) !== value) number.value = String(value);
    },
  };
}
