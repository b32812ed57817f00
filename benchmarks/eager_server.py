"""What a script would serve with: FastAPI around eager torch and torchvision's transforms.

python benchmarks/eager_server.py FOLDER PORT      FOLDER: an unpacked model.tar.gz
"""

import io
import json
import sys
from pathlib import Path

import timm
import torch
import uvicorn
from fastapi import FastAPI, Request
from PIL import Image
from safetensors.torch import load_file
from starlette.concurrency import run_in_threadpool
from torch import nn
from torchvision import transforms as T


def main() -> None:
    """Serve until killed."""
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    card = json.loads((folder / "model.json").read_text())
    classes, preprocessing = card["classes"], card["preprocessing"]
    state = load_file(folder / "model.safetensors")
    model = timm.create_model(card["backbone"], num_classes=0)
    model.load_state_dict({k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")})
    head = nn.Linear(state["head.0.weight"].shape[1], len(classes))
    head.load_state_dict({"weight": state["head.0.weight"], "bias": state["head.0.bias"]})
    network = nn.Sequential(model, head).eval()
    transform = T.Compose(
        [
            T.Resize(preprocessing["resize"], T.InterpolationMode.BICUBIC),
            T.CenterCrop(preprocessing["size"]),
            T.ToTensor(),
            T.Normalize(preprocessing["mean"], preprocessing["std"]),
        ]
    )
    app = FastAPI()

    def classify(body: bytes) -> list[dict[str, object]]:
        photo = transform(Image.open(io.BytesIO(body)).convert("RGB"))
        with torch.no_grad():
            probabilities = network(photo[None]).softmax(1)[0]
        best = probabilities.topk(min(5, len(classes)))
        return [
            {"label": classes[i], "probability": p} for p, i in zip(best[0].tolist(), best[1].tolist(), strict=True)
        ]

    @app.post("/invocations")
    async def invocations(request: Request) -> list[dict[str, object]]:
        return await run_in_threadpool(classify, await request.body())

    uvicorn.run(app, port=port, log_level="warning")


if __name__ == "__main__":
    main()
