// Where pictures come from: a file, a drop, the clipboard, the webcam, a camera of the robot.

const ACCEPTED = ["image/jpeg", "image/png", "image/webp"];
const JPEG_QUALITY = 0.92;
const LIVE_PAUSE_MS = 100; // between pictures of a live camera

const find = (id) => document.getElementById(id);

export class PictureSource {
  constructor({ onPicture, onProblem, server }) {
    this.onPicture = onPicture;
    this.onProblem = onProblem;
    this.server = server;
    this.stream = null; // of the webcam
    this.live = null; // camera of the robot that is shown: {name, picture, control}
    this.offered = "";
    find("open").addEventListener("click", () => find("file").click());
    find("file").addEventListener("change", (event) => {
      this.take(event.target.files[0]);
      event.target.value = "";
    });
    find("webcam").addEventListener("click", () => (this.stream ? this.stopWebcam() : this.startWebcam()));
    find("snap").addEventListener("click", () => (this.live ? this.take(this.live.picture, this.live.name) : this.snap()));
    find("camera").addEventListener("change", (event) => this.watchCamera(event.target.value));
    const drop = find("drop");
    for (const kind of ["dragenter", "dragover"]) {
      document.addEventListener(kind, (event) => {
        event.preventDefault();
        drop.classList.add("over");
      });
    }
    document.addEventListener("dragleave", (event) => !event.relatedTarget && drop.classList.remove("over"));
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      if (event.dataTransfer.files.length) this.take(event.dataTransfer.files[0]);
    });
    document.addEventListener("paste", (event) => {
      if (event.clipboardData.files.length) this.take(event.clipboardData.files[0]);
    });
  }

  /** Show a file; what the server cannot read, but the browser can, is sent as a JPEG. */
  async take(file, camera) {
    if (!file) return;
    this.stopWebcam();
    this.stopCamera();
    let bitmap;
    try {
      bitmap = await createImageBitmap(file);
    } catch {
      this.onProblem(`${file.name || "This file"} is not a picture that the browser can show.`);
      return;
    }
    const blob = ACCEPTED.includes(file.type) ? file : await encode(bitmap);
    await this.onPicture({ blob, name: file.name || "picture.jpg", camera }, bitmap);
  }

  async startWebcam() {
    this.stopCamera();
    const video = find("video");
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({ video: { width: 1280 }, audio: false });
    } catch (error) {
      const hint = window.isSecureContext ? "" : "browsers allow it on localhost and over https only";
      this.onProblem(`The webcam cannot be used: ${error.message}`, hint);
      return;
    }
    find("webcam").textContent = "Stop webcam";
    video.srcObject = this.stream;
    video.hidden = false;
    await video.play().catch(() => {}); // stopped before it began
    find("snap").hidden = !this.stream;
  }

  stopWebcam() {
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = null;
    find("video").srcObject = null;
    find("video").hidden = true;
    find("snap").hidden = !this.live?.picture;
    find("webcam").textContent = "Webcam";
  }

  async snap() {
    let blob;
    try {
      blob = await encode(await createImageBitmap(find("video")));
    } catch {
      this.onProblem("The webcam gives no picture yet; try again.");
      return;
    }
    await this.take(new File([blob], "webcam.jpg", { type: blob.type }));
  }

  /** Offer the cameras that the server can see. */
  offerCameras(names) {
    if (names.join() === this.offered) return;
    this.offered = names.join();
    const select = find("camera");
    select.replaceChildren(new Option("Robot’s camera…", ""), ...names.map((name) => new Option(name, name)));
    select.hidden = !names.length;
  }

  /** Show a camera of the robot live, until a picture is taken. */
  async watchCamera(name) {
    this.stopWebcam();
    this.stopCamera();
    if (!name) return;
    find("camera").value = name;
    const control = new AbortController();
    const live = (this.live = { name, picture: null, control });
    const shown = find("live");
    while (this.live === live) {
      try {
        live.picture = await this.server.cameraPicture(name, control.signal);
      } catch (error) {
        if (this.live !== live) return;
        this.stopCamera();
        this.onProblem(error.message, error.hint);
        return;
      }
      if (this.live !== live) return;
      URL.revokeObjectURL(shown.src);
      shown.src = URL.createObjectURL(live.picture);
      shown.hidden = find("snap").hidden = false;
      await new Promise((resolve) => setTimeout(resolve, LIVE_PAUSE_MS));
    }
  }

  stopCamera() {
    this.live?.control.abort();
    this.live = null;
    const shown = find("live");
    URL.revokeObjectURL(shown.src);
    shown.removeAttribute("src");
    shown.hidden = true;
    find("snap").hidden = !this.stream;
    find("camera").value = "";
  }
}

async function encode(bitmap) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", JPEG_QUALITY));
}
