"""A peer of the server: FastAPI and ONNX Runtime, as a careful script has it. It imports nothing of Sagehound.

python benchmarks/plain_server.py FOLDER PORT WORKERS THREADS      FOLDER: an unpacked model.tar.gz

THREADS are ONNX Runtime's for one call; as many photos are handled at a time as fill the cores.
"""

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from plain_model import PlainModel


def make_app() -> FastAPI:
    """The application of one worker, for uvicorn."""
    folder, workers, threads = os.environ["PLAIN_SERVER"].split("|")
    model = PlainModel(Path(folder), int(threads))
    cores = len(os.sched_getaffinity(0))
    pool = ThreadPoolExecutor(max(1, cores // int(workers) + 1))
    app = FastAPI()

    @app.get("/ping")
    async def ping() -> dict[str, str]:
        return {}

    @app.post("/invocations")
    async def invocations(request: Request) -> dict[str, object]:
        body = await request.body()
        return await asyncio.get_running_loop().run_in_executor(pool, lambda: model.classify([model.read(body)])[0])

    return app


if __name__ == "__main__":
    _, folder, port, workers, threads = sys.argv
    os.environ["PLAIN_SERVER"] = "|".join((folder, workers, threads))
    uvicorn.run(
        "plain_server:make_app",
        factory=True,
        app_dir=str(Path(__file__).parent),
        port=int(port),
        workers=int(workers),
        backlog=2048,
        access_log=False,
        log_level="warning",
    )
