// A film for the camera to show, as an uncompressed .y4m file.

import { writeFileSync } from "node:fs";

type Colour = [number, number, number];

/** Frames of one colour each with a grey square that moves when `moving`; `per_colour` frames of every colour. */
export function writeFilm(
  path: string,
  options: { colours: Colour[]; per_colour: number; moving: boolean; width?: number; height?: number },
): void {
  const width = options.width ?? 320;
  const height = options.height ?? 240;
  const parts: Buffer[] = [Buffer.from(`YUV4MPEG2 W${width} H${height} F15:1 Ip A1:1 C420jpeg\n`)];
  let frame = 0;
  for (const colour of options.colours) {
    for (let i = 0; i < options.per_colour; i++, frame++) {
      parts.push(Buffer.from("FRAME\n"), drawFrame(width, height, colour, options.moving ? frame : 0));
    }
  }
  writeFileSync(path, Buffer.concat(parts));
}

function drawFrame(width: number, height: number, [r, g, b]: Colour, step: number): Buffer {
  const SIDE = 40;
  const luma = Buffer.alloc(width * height, Math.round(0.299 * r + 0.587 * g + 0.114 * b));
  const quarter = (width / 2) * (height / 2);
  const blue = Buffer.alloc(quarter, Math.round(128 - 0.1687 * r - 0.3313 * g + 0.5 * b));
  const red = Buffer.alloc(quarter, Math.round(128 + 0.5 * r - 0.4187 * g - 0.0813 * b));
  const left = (step * 8) % (width - SIDE);
  for (let y = 20; y < 20 + SIDE; y++) luma.fill(160, y * width + left, y * width + left + SIDE);
  return Buffer.concat([luma, blue, red]);
}
