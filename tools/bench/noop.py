"""What a bare FastAPI costs: `python -m tools.bench.noop PORT` takes JSON and answers 202 with a similar document."""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI

app = FastAPI()


@app.post("/generate_image", status_code=202)
async def generate_image(body: dict[str, Any]) -> dict[str, Any]:
    """Answer with a constant document."""
    return {
        "task_id": "0" * 32,
        "status": "queued",
        "position": 0,
        "estimated_seconds": 0.0,
        "model": body["model_name"],
    }


@app.get("/readyz")
async def readyz() -> dict[str, str]:
    """Ready at once."""
    return {"status": "ready"}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[-1]), log_level="warning", access_log=False)
