"""Writes small pictures in many variants and what Pillow decodes them to.

Usage: python make_image_cases.py tests/fixtures/image-cases   (Pillow 13, numpy)

Each `NAME.EXT` has an answer `NAME.EXT.rgb`: height and width as little-endian u32, then
`[height, width, 3]` bytes of `ImageOps.exif_transpose(image).convert("RGB")`.
"""

import io
import os
import struct
import sys
import zlib

import numpy as np
from PIL import Image, ImageOps

out = sys.argv[1]
os.makedirs(out, exist_ok=True)
rng = np.random.default_rng(20)


def scene(w, h):
    """A gradient with two blocks and one line, different in every corner."""
    y, x = np.mgrid[0:h, 0:w].astype(float)
    a = np.stack([255 * x / max(w - 1, 1), 255 * y / max(h - 1, 1), 127 + 100 * np.sin((x + 2 * y) / 7)], -1)
    a[h // 5 : h // 2, w // 4 : w // 2] = (220, 40, 30)
    a[h // 2 :, -w // 6 :] = (20, 200, 90)
    return Image.fromarray(np.clip(a, 0, 255).astype(np.uint8), "RGB")


def store(name, data, answer=None):
    with open(os.path.join(out, name), "wb") as f:
        f.write(data)
    rgb = answer if answer is not None else ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    with open(os.path.join(out, name + ".rgb"), "wb") as f:
        f.write(struct.pack("<II", rgb.height, rgb.width) + rgb.tobytes())


def save(name, image, answer=None, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    store(name, buffer.getvalue(), answer)


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


# JPEG: scans, subsampling, colour spaces, odd sizes, restarts.
pic = scene(45, 37)
for sub, label in ((0, "444"), (1, "422"), (2, "420")):
    for progressive in (False, True):
        kind = "progressive" if progressive else "baseline"
        save(f"{kind}_{label}.jpg", pic, format="JPEG", quality=88, subsampling=sub, progressive=progressive)
save("grey.jpg", pic.convert("L"), format="JPEG", quality=90)
save("grey_progressive.jpg", pic.convert("L"), format="JPEG", quality=90, progressive=True)
save("restarts.jpg", pic, format="JPEG", quality=85, restart_marker_rows=1)
save("rgb_kept.jpg", pic, format="JPEG", quality=92, keep_rgb=True)
save("cmyk.jpg", pic.convert("CMYK"), format="JPEG", quality=93)
save("tiny_1x1.jpg", scene(1, 1), format="JPEG")
save("tiny_3x17.jpg", scene(3, 17), format="JPEG", quality=80)

# A picture with real black in CMYK, and the same file relabelled as Adobe YCCK.
ink = np.asarray(pic.convert("CMYK")).copy()
ink[..., 3] = np.linspace(0, 200, ink.shape[1]).astype(np.uint8)
buffer = io.BytesIO()
Image.fromarray(ink, "CMYK").save(buffer, "JPEG", quality=95, subsampling=0)
data = buffer.getvalue()
store("cmyk_black.jpg", data)
marker = data.index(b"Adobe")
store("ycck.jpg", data[: marker + 11] + b"\x02" + data[marker + 12 :])
stripped = data[: marker - 4] + data[marker + 12 :]
store("cmyk_no_adobe.jpg", stripped)

for orientation in range(1, 9):
    save(f"orientation_{orientation}.jpg", scene(24, 16), format="JPEG", quality=95, subsampling=0, exif=exif(orientation))
save("orientation_6.png", scene(24, 16), format="PNG", exif=exif(6))
save("orientation_8.webp", scene(24, 16), format="WEBP", lossless=True, exif=exif(8))
save("orientation_3.tif", scene(24, 16), format="TIFF", exif=exif(3))

# PNG
for bits in (1, 2, 4, 8):
    save(f"palette_{bits}.png", pic.quantize(2**bits), format="PNG", bits=bits)


def raw_png(bits, colour, rows, extra=b""):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    h, w = len(rows), rows.shape[1]
    body = b""
    for row in rows:
        if bits == 16:
            body += b"\0" + row.astype(">u2").tobytes()
        else:
            padded = np.concatenate([row, np.zeros(-len(row) % (8 // bits), np.uint8)])
            body += b"\0" + bytes(int("".join(f"{v:0{bits}b}" for v in padded[i : i + 8 // bits]), 2) for i in range(0, len(padded), 8 // bits))
    head = struct.pack(">IIBBBBB", w, h, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


for bits in (1, 2, 4):
    store(f"grey_{bits}.png", raw_png(bits, 0, rng.integers(0, 2**bits, (9, 13)).astype(np.uint8)))
wide = rng.integers(0, 65536, (7, 5, 4)).astype(np.uint16)


def high(samples):
    a = (samples >> 8).astype(np.uint8)
    return Image.fromarray(a).convert("RGB") if a.ndim == 2 else Image.fromarray(a, "RGB")


# Pillow clips 16-bit grey; the answer here is the high byte.
store("grey_16.png", raw_png(16, 0, wide[..., 0]), high(wide[..., 0]))
store("grey_alpha_16.png", raw_png(16, 4, wide[..., :2]), high(wide[..., 0]))
store("rgb_16.png", raw_png(16, 2, wide[..., :3]), high(wide[..., :3]))
store("rgba_16.png", raw_png(16, 6, wide), high(wide[..., :3]))
rgba = pic.convert("RGBA")
rgba.putalpha(Image.fromarray((np.arange(37 * 45) % 256).astype(np.uint8).reshape(37, 45)))
save("rgba.png", rgba, format="PNG")
save("transparent_colour.png", pic, format="PNG", transparency=(220, 40, 30))

# WebP
save("lossy.webp", pic, format="WEBP", quality=85)
save("lossy_large.webp", scene(133, 90), format="WEBP", quality=60)
save("lossy_alpha.webp", rgba, format="WEBP", quality=90, exact=True)
save("lossless_alpha.webp", rgba, format="WEBP", lossless=True, exact=True)
save("animated.webp", pic, format="WEBP", lossless=True, save_all=True, append_images=[scene(45, 37).rotate(180)])

# BMP
save("rgb.bmp", pic, format="BMP")
save("palette.bmp", pic.quantize(200), format="BMP")
save("grey.bmp", pic.convert("L"), format="BMP")
save("bits.bmp", pic.convert("1"), format="BMP")
save("rgba.bmp", rgba, format="BMP")

# TIFF
for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
    save(f"rgb_{compression}.tif", pic, format="TIFF", compression=compression)
save("grey.tif", pic.convert("L"), format="TIFF")
save("bits.tif", pic.convert("1"), format="TIFF")
save("rgba.tif", rgba, format="TIFF")
save("cmyk.tif", Image.fromarray(ink, "CMYK"), format="TIFF")
save("pages.tif", pic, format="TIFF", save_all=True, append_images=[scene(9, 9)])
grey16 = Image.fromarray(wide[..., 0])
save("grey_16.tif", grey16, high(wide[..., 0]), format="TIFF")

# GIF: interlaced, a frame smaller than the screen, and one that sticks out of it.
save("interlaced.gif", pic.quantize(64), format="GIF", interlace=True)


def small_frame(background_flags, left, top, transparent):
    frame = scene(20, 12).quantize(16)
    buffer = io.BytesIO()
    frame.save(buffer, "GIF", interlace=False)
    plain = buffer.getvalue()
    at = plain.index(b"\x2c\0\0\0\0" + struct.pack("<HH", 20, 12))
    table = plain[13 : 13 + 3 * 2 ** ((plain[10] & 7) + 1)]
    control = b"\x21\xf9\x04" + bytes([transparent is not None, 0, 0, transparent or 0]) + b"\0"
    screen = b"GIF89a" + struct.pack("<HH", 30, 25) + bytes([plain[10], background_flags, 0])
    image = b"\x2c" + struct.pack("<HHHH", left, top, 20, 12) + plain[at + 9 :]
    return screen + table + control + image


store("small_frame.gif", small_frame(3, 4, 7, None))
store("small_frame_transparent.gif", small_frame(3, 4, 7, 5))
store("frame_sticks_out.gif", small_frame(0, 18, 20, None))
