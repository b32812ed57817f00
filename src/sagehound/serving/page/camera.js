// Takes a photo with the camera, where the browser allows it: on this machine or over https.

import { at } from "./common.js";

export function offerCamera(classify, say) {
  if (!navigator.mediaDevices?.getUserMedia) return;
  const dialog = at("viewfinder");
  const video = dialog.querySelector("video");
  at("camera").hidden = false;
  at("camera").addEventListener("click", async () => {
    try {
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      dialog.showModal();
    } catch (error) {
      say(`The camera cannot be used: ${error.message}`);
    }
  });
  at("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    for (const track of video.srcObject?.getTracks() ?? []) track.stop();
    video.srcObject = null;
  });
  at("shoot").addEventListener("click", async () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.95));
    dialog.close();
    if (blob) await classify(new File([blob], "camera.jpg", { type: "image/jpeg" }));
    else say("The camera gives no picture yet: try again.");
  });
}
