// A film for the camera to show, as an uncompressed .y4m file.

import { writeFileSync } from "node:fs";

type Colour = [number, number, number];

/** A filled figure; `x`, `y` its middle, `size` half its height, in points. */
export interface Figure {
  kind: "square" | "diamond" | "triangle" | "circle";
  colour: Colour;
  x: number;
  y: number;
  size: number;
}

export interface Scene {
  ground: Colour;
  figures: Figure[];
}

/** Whether a point, from the middle of a figure in units of its size, belongs to it. */
const INSIDE: { [kind in Figure["kind"]]: (x: number, y: number) => boolean } = {
  square: (x, y) => Math.abs(x) <= 1 && Math.abs(y) <= 1,
  diamond: (x, y) => Math.abs(x) / 0.75 + Math.abs(y) <= 1,
  triangle: (x, y) => Math.abs(y) <= 1 && Math.abs(x) <= (y + 1) / 2,
  circle: (x, y) => x * x + y * y <= 1,
};

/** Shows the scenes one after another, `frames` of each, over and over. `step` points move each figure each frame. */
export function writeFilm(path: string, scenes: Scene[], frames: number, side: { width: number; height: number }, step = 0): void {
  const { width, height } = side;
  const parts: Buffer[] = [Buffer.from(`YUV4MPEG2 W${width} H${height} F15:1 Ip A1:1 C420jpeg\n`)];
  for (const [i, scene] of scenes.entries()) {
    for (let frame = 0; frame < frames; frame++) {
      const moved = scene.figures.map((figure) => ({ ...figure, x: (figure.x + step * (i * frames + frame)) % width }));
      parts.push(Buffer.from("FRAME\n"), drawFrame(width, height, scene.ground, moved));
    }
  }
  writeFileSync(path, Buffer.concat(parts));
}

function drawFrame(width: number, height: number, ground: Colour, figures: Figure[]): Buffer {
  const [y0, u0, v0] = yuv(ground);
  const luma = Buffer.alloc(width * height, y0);
  const blue = Buffer.alloc((width / 2) * (height / 2), u0);
  const red = Buffer.alloc((width / 2) * (height / 2), v0);
  for (const { kind, colour, x, y, size } of figures) {
    const [luminance, u, v] = yuv(colour);
    for (let row = Math.max(0, Math.floor(y - size)); row < Math.min(height, y + size); row++) {
      for (let column = Math.max(0, Math.floor(x - size)); column < Math.min(width, x + size); column++) {
        if (!INSIDE[kind]((column - x) / size, (row - y) / size)) continue;
        luma[row * width + column] = luminance;
        const at = (row >> 1) * (width / 2) + (column >> 1);
        blue[at] = u;
        red[at] = v;
      }
    }
  }
  return Buffer.concat([luma, blue, red]);
}

/** Full-range BT.601, as JPEG has it. */
function yuv([r, g, b]: Colour): Colour {
  return [
    Math.round(0.299 * r + 0.587 * g + 0.114 * b),
    Math.round(128 - 0.1687 * r - 0.3313 * g + 0.5 * b),
    Math.round(128 + 0.5 * r - 0.4187 * g - 0.0813 * b),
  ];
}
