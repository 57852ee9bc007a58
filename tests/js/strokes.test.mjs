import assert from "node:assert/strict";
import test from "node:test";
import { anglesOf, identity, positionOf } from "../../js/path_editor/camera_math.mjs";
import { keysOfStroke } from "../../js/path_editor/strokes.mjs";

const circle = Array.from({ length: 200 }, (_, i) => [Math.sin(i / 32), 1 - Math.cos(i / 32)]);
const back = [[0, 0.5], [0, 1], [0, 0.5], [0, -1]];

function distanceTo([x, z], line) {
  return Math.min(...line.map((spot) => Math.hypot(spot[0] - x, spot[1] - z)));
}

for (const look of ["ahead", "along", "centre"]) {
  test(`a drawn path that ${look === "ahead" ? "looks" : "turns"} ${look} is one that Python films`, () => {
    for (const stroke of [circle, back, [[0, 0]], [[1, 1]], [[-1, -1], [1, 1], [-1, 1], [1, -1]]]) {
      const keys = keysOfStroke(stroke, { look, centre: 1 });
      assert.deepEqual(keys[0].cam2world, identity());
      assert.ok(keys.length >= 2 && keys.length <= 16);
      assert.deepEqual([keys[0].time, keys.at(-1).time], [0, 1]);
      for (let i = 1; i < keys.length; i++) {
        assert.ok(keys[i].time > keys[i - 1].time);
        const turn = Math.abs(anglesOf(keys[i].cam2world).pan - anglesOf(keys[i - 1].cam2world).pan);
        assert.ok(Math.min(turn, 360 - turn) <= 120 + 1e-9, `${turn}`);
      }
    }
  });
}

test("the keyframes of a circle lie on it", () => {
  for (const key of keysOfStroke(circle, { look: "ahead", centre: 1 })) {
    const [x, y, z] = positionOf(key.cam2world);
    assert.equal(y, 0);
    assert.ok(distanceTo([x, z], circle) < 0.05);
  }
});

test("a straight line needs two keyframes", () => {
  const line = Array.from({ length: 50 }, (_, i) => [i / 100, i / 50]);
  assert.equal(keysOfStroke(line, { look: "ahead", centre: 1 }).length, 2);
});

test("looking along the path is looking where it goes", () => {
  const keys = keysOfStroke(circle.slice(0, 50), { look: "along", centre: 1 });
  const { pan } = anglesOf(keys.at(-1).cam2world);
  const [[x0, , z0], [x1, , z1]] = keys.slice(-2).map((key) => positionOf(key.cam2world));
  assert.ok(Math.abs(pan - (Math.atan2(x1 - x0, z1 - z0) * 180) / Math.PI) < 1e-9);
});

test("looking at the middle keeps the middle ahead", () => {
  for (const key of keysOfStroke([[0.2, 0.1], [0.4, 0.3], [0.5, 0.6]], { look: "centre", centre: 1 }).slice(1)) {
    const [x, , z] = positionOf(key.cam2world);
    const [forwardX, forwardZ] = [key.cam2world[0][2], key.cam2world[2][2]];
    assert.ok(Math.abs(forwardX * (1 - z) - forwardZ * -x) < 1e-9 && forwardX * -x + forwardZ * (1 - z) > 0);
  }
});
