import assert from "node:assert/strict";
import test from "node:test";
import { isNode } from "../../js/mask_tuner/mask_server.mjs";
import { changed, complete, known, presetName, presetOf } from "../../js/mask_tuner/rules_state.mjs";

const described = {
  limits: { grow: { min: 0, max: 64, step: 1, tooltip: "" }, sky_threshold: { min: 0.02, max: 1, step: 0.01, tooltip: "" } },
  sources: { sky_far: { kind: "sky", label: "far" }, moving_mask: { kind: "moving", label: "mask" } },
  kinds: ["sky", "moving", "unsure"], max_weight: 2, priorities: ["keep first"],
  presets: {
    balanced: { sky_threshold: 0.5, grow: 4, weights: { sky_far: 1, moving_mask: 1 } },
    "open sky": { sky_threshold: 0.3, grow: 6, weights: { sky_far: 1.4, moving_mask: 1 } },
  },
};

test("what a tuning lacks is the default", () => {
  assert.deepEqual(complete(described, { grow: 9, weights: { sky_far: 0 } }),
    { sky_threshold: 0.5, grow: 9, weights: { sky_far: 0, moving_mask: 1 } });
});

test("a change stays within its limits, on its steps, and changes nothing that was given", () => {
  const given = Object.freeze({ grow: 9, weights: Object.freeze({ sky_far: 0.5 }) });
  assert.equal(changed(described, given, "grow", 99).grow, 64);
  assert.equal(changed(described, given, "sky_threshold", 0.1 + 0.2).sky_threshold, 0.3);
  assert.equal(changed(described, given, "weights.sky_far", 7).weights.sky_far, 2);
  assert.equal(changed(described, given, "weights.moving_mask", 0.1).weights.sky_far, 0.5);
});

test("a tuning is recognised as the preset it is, whatever the order of its names", () => {
  const { presets } = described;
  assert.equal(presetOf(presets, { weights: { moving_mask: 1, sky_far: 1.4 }, grow: 6, sky_threshold: 0.3 }), "open sky");
  assert.equal(presetOf(presets, { ...presets.balanced, grow: 5 }), "");
});

test("of a saved file only what is known counts", () => {
  const file = { grow: 8, colour: "red", weights: { sky_far: 0.2, clouds: 1 } };
  assert.deepEqual(known(described, file), { sky_threshold: 0.5, grow: 8, weights: { sky_far: 0.2, moving_mask: 1 } });
  assert.throws(() => known(described, [1]), /no scene preset/);
});

test("a preset's name is a plain file name", () => {
  assert.equal(presetName(" Market street (noon) "), "Market street (noon)");
  for (const bad of ["", "../x", "a/b", "a\\b", ".hidden", "a..b", "x".repeat(61)]) assert.equal(presetName(bad), "");
});

test("a node is found by its id, also inside of a subgraph", () => {
  assert.ok(isNode("7", "7") && isNode("12:7", "7"));
  assert.ok(!isNode("17", "7") && !isNode("7:1", "7"));
});
