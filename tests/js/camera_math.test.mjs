import assert from "node:assert/strict";
import test from "node:test";
import * as math from "../../js/path_editor/camera_math.mjs";

const close = (a, b, tolerance = 1e-12) => a.flat(2).forEach((value, i) => assert.ok(Math.abs(value - b.flat(2)[i]) < tolerance, `${a} is not ${b}`));
const POSES = [{ pan: 0, tilt: 0, roll: 0 }, { pan: 30, tilt: -20, roll: 10 }, { pan: -170, tilt: 80, roll: -95 }, { pan: 179, tilt: 0, roll: 179 }];

test("angles survive the way to a matrix and back", () => {
  for (const pose of POSES) close(Object.values(math.anglesOf(math.fromAngles(pose, [1, 2, 3]))), Object.values(pose), 1e-9);
});

test("straight up, the matrix survives though pan and roll are one turn", () => {
  for (const tilt of [90, -90]) {
    const pose = math.fromAngles({ pan: 20, tilt, roll: 30 }, [0, 0, 0]);
    close(math.fromAngles(math.anglesOf(pose), [0, 0, 0]), pose, 1e-9);
  }
});

test("pan goes to the right, tilt up and roll clockwise", () => {
  const forward = (pose) => math.fromAngles({ pan: 0, tilt: 0, roll: 0, ...pose }, [0, 0, 0]).slice(0, 3).map((row) => row[2]);
  close(forward({ pan: 90 }), [1, 0, 0]);
  close(forward({ tilt: 90 }), [0, -1, 0]); // y is down
  close(math.fromAngles({ pan: 0, tilt: 0, roll: 90 }, [0, 0, 0]).slice(0, 3).map((row) => row[0]), [0, 1, 0]);
});

test("a turned camera stays where it is and stays rigid", () => {
  const start = math.fromAngles({ pan: 10, tilt: 20, roll: 30 }, [1, 2, 3]);
  const after = math.turned(start, { pan: 400, tilt: 500, roll: -7 });
  assert.deepEqual(math.positionOf(after), [1, 2, 3]);
  const transposed = after.map((_, i) => after.map((row) => (i < 3 ? row[i] : 0)));
  const product = math.multiply(after, transposed).slice(0, 3).map((row) => row.slice(0, 3));
  close(product, [[1, 0, 0], [0, 1, 0], [0, 0, 1]], 1e-12);
});

test("a point seen from a camera is where its own axes say", () => {
  const camera = math.fromAngles({ pan: 50, tilt: -20, roll: 70 }, [1, 2, 3]);
  const points = [[0, 0, 0], [0.5, -1, 2]].map(([x, y, z]) => math.positionOf(math.shifted(camera, x, y, z)));
  close([[...math.seenFrom(new Float32Array(points.flat()), camera)]], [[0, 0, 0, 0.5, -1, 2]], 1e-6);
});

test("millimetres are those of full frame", () => {
  assert.ok(Math.abs(math.millimetresToFov(18) - 90) < 1e-9);
  for (const fov of [1, 40, 120]) assert.ok(Math.abs(math.millimetresToFov(math.fovToMillimetres(fov)) - fov) < 1e-9);
});

test("a frustum's corners lie on its field of view", () => {
  const corners = math.frustumCorners(math.identity(), 90, 2, 3);
  close(corners, [[-3, -1.5, 3], [3, -1.5, 3], [3, 1.5, 3], [-3, 1.5, 3]]);
});

test("every easing runs from 0 to 1 and has its inverse", () => {
  for (const easing of ["linear", "ease", "ease_in", "ease_out"]) {
    assert.deepEqual([math.eased(easing, 0), math.eased(easing, 1)], [0, 1]);
    for (let i = 0; i <= 100; i++) {
      assert.ok(Math.abs(math.eased(easing, math.uneased(easing, i / 100)) - i / 100) < 1e-12, easing);
    }
  }
});
