// Where pictures come from: a camera, the screen, or one picture.

/** Something to look at. */
export interface Source {
  readonly kind: "camera" | "screen" | "picture";
  /** The newest frame; null while there is none. */
  frame(): Promise<ImageBitmap | null>;
  /** False once the camera was unplugged or the sharing stopped. */
  readonly alive: boolean;
  close(): void;
}

export class VideoSource implements Source {
  readonly #stream: MediaStream;
  readonly #video: HTMLVideoElement;
  readonly kind: "camera" | "screen";
  alive = true;

  private constructor(kind: "camera" | "screen", stream: MediaStream, video: HTMLVideoElement) {
    this.kind = kind;
    this.#stream = stream;
    this.#video = video;
    for (const track of stream.getVideoTracks()) track.addEventListener("ended", () => (this.alive = false));
  }

  static async camera(video: HTMLVideoElement, deviceId: string): Promise<VideoSource> {
    if (navigator.mediaDevices === undefined) throw new DOMException("no media devices", "SecurityError");
    const which = deviceId === "" ? { facingMode: "environment" } : { deviceId: { exact: deviceId } };
    const size = { width: { ideal: 1280 }, height: { ideal: 720 } };
    const stream = await navigator.mediaDevices.getUserMedia({ video: { ...which, ...size }, audio: false });
    return VideoSource.#play("camera", stream, video);
  }

  static async screen(video: HTMLVideoElement): Promise<VideoSource> {
    return VideoSource.#play("screen", await navigator.mediaDevices.getDisplayMedia({ video: true, audio: false }), video);
  }

  static async #play(kind: "camera" | "screen", stream: MediaStream, video: HTMLVideoElement): Promise<VideoSource> {
    video.srcObject = stream;
    const facing = stream.getVideoTracks()[0]?.getSettings().facingMode;
    video.classList.toggle("mirrored", kind === "camera" && facing === "user");
    await video.play();
    return new VideoSource(kind, stream, video);
  }

  async frame(): Promise<ImageBitmap | null> {
    if (this.#video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA || this.#video.videoWidth === 0) return null;
    return createImageBitmap(this.#video);
  }

  close(): void {
    this.alive = false;
    for (const track of this.#stream.getTracks()) track.stop();
    this.#video.srcObject = null;
  }
}

export class PictureSource implements Source {
  readonly kind = "picture";
  readonly alive = true;
  readonly #blob: Blob;
  readonly #url: string;

  constructor(blob: Blob, image: HTMLImageElement) {
    this.#blob = blob;
    this.#url = URL.createObjectURL(blob);
    image.src = this.#url;
  }

  frame(): Promise<ImageBitmap> {
    return createImageBitmap(this.#blob, { imageOrientation: "from-image" });
  }

  close(): void {
    URL.revokeObjectURL(this.#url);
  }
}

/** What to tell a visitor whose camera or screen does not come. */
export function explain(error: unknown, kind: "camera" | "screen"): { title: string; text: string } {
  const name = error instanceof DOMException ? error.name : "";
  if (name === "NotFoundError" || name === "OverconstrainedError") {
    return { title: "There is no camera", text: "None was found on this device. Plug one in and start again, or look at a picture." };
  }
  if (name === "NotAllowedError") {
    return kind === "camera"
      ? { title: "The camera is not allowed", text: "Allow it for this page (the symbol beside the address), then start again, or look at a picture." }
      : { title: "The screen is not shared", text: "Start again and choose a window, or look at a picture." };
  }
  if (name === "NotReadableError") {
    return { title: "The camera is busy", text: "Another program may use it. Close that one and start again." };
  }
  if (name === "SecurityError") {
    return { title: "No camera on this address", text: "Browsers give a camera only to pages over https or on this machine." };
  }
  return { title: `The ${kind} could not be started`, text: error instanceof Error ? error.message : String(error) };
}

/** Tells whether a frame differs from the one that was last accepted, from a few hundred grey points. */
export class ChangeDetector {
  static readonly WIDTH = 32;
  static readonly HEIGHT = 24;
  /** Mean difference of grey values, of 255, above which a frame is new: above a camera's noise, below a moving hand. */
  static readonly THRESHOLD = 2.5;
  readonly #context = new OffscreenCanvas(ChangeDetector.WIDTH, ChangeDetector.HEIGHT).getContext("2d", { willReadFrequently: true })!;
  #last: Uint8Array | null = null;

  accept(frame: ImageBitmap): boolean {
    const { WIDTH, HEIGHT, THRESHOLD } = ChangeDetector;
    this.#context.drawImage(frame, 0, 0, WIDTH, HEIGHT);
    const { data } = this.#context.getImageData(0, 0, WIDTH, HEIGHT);
    const grey = new Uint8Array(WIDTH * HEIGHT);
    let difference = 0;
    for (let i = 0; i < grey.length; i++) {
      grey[i] = (data[4 * i]! * 77 + data[4 * i + 1]! * 151 + data[4 * i + 2]! * 28) >> 8;
      if (this.#last !== null) difference += Math.abs(grey[i]! - this.#last[i]!);
    }
    if (this.#last !== null && difference / grey.length < THRESHOLD) return false;
    this.#last = grey;
    return true;
  }

  forget(): void {
    this.#last = null;
  }
}
